"""The pipelines of a release as they are declared, and what of them every process of a server must know.

It has nothing of what serves them, which a process beside the workers need not load.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.compile.loading import load_pipelines
from tailrace.compile.pinned_modules import PinnedFolder
from tailrace.errors import SetupError
from tailrace.features.hop_order import hop_of
from tailrace.features.stores.opening import resolve_url
from tailrace.inference.composition.declarations import compositions_of
from tailrace.inference.declaration import Model, walk_declared
from tailrace.inference.python_model import PythonModel
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.monitor.layout import Branches, PipelineShape
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin


def load_all(pin: Pin) -> list[Pipeline]:
    """Return the pipelines of all files, from their pinned sources.

    Raises SetupError for two of one name, or a file that cannot be loaded.
    """
    found: dict[str, str] = {}
    pipelines = []
    for file in pin.files:
        for pipeline in load_pipelines(Path(file), PinnedFolder(Path(file).parent, Path(pin.copy_of(file)))):
            if pipeline.name in found:
                what = f"two pipelines are called {pipeline.name!r}: in {found[pipeline.name]} and here"
                raise SetupError(what, where=file, next="give each its own name, and each file once")
            found[pipeline.name] = file
            pipelines.append(pipeline)
    return pipelines


def shape_of(pipeline: Pipeline) -> PipelineShape:
    """Return what the metrics of a pipeline need to know of it."""
    views = tuple(view.__name__ for view in pipeline.views)
    return PipelineShape(
        pipeline.name, pipeline.budget, views, branches_of(pipeline), remote_names(pipeline), computed_names(pipeline),
        coalesces=pipeline.coalesce is not None, late_checks=tuple(check.name for check in pipeline.validate_later),
        accepts=pipeline.results is not None, hops=tuple(map(hop_of, pipeline.views)),
    )  # fmt: skip


def remote_names(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the remote models of a pipeline, by name."""
    return tuple(dict.fromkeys(each.name for each in walk_declared(pipeline.model) if isinstance(each, RemoteModel)))


def computed_names(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the models of a pipeline that are computed here, and those that are fallen back to, by name."""
    models = (each for each in walk_declared(pipeline.model) if isinstance(each, Model | PythonModel))
    return tuple(dict.fromkeys(each.name for each in models))


def branches_of(pipeline: Pipeline) -> Branches:
    """Return the stages of a pipeline at which rows go several ways."""
    return tuple((each.name, each.branches) for each in compositions_of(pipeline.model) if each.branches)


def store_url(pipeline: Pipeline, override: str | None) -> str:
    """Return the store of a pipeline, its relative path made one beside its file. Without views it needs none."""
    if not pipeline.views:
        return "memory:"
    return override or resolve_url(pipeline.store, pipeline.base_dir)
