"""What is told of a release: its pipelines, each with all its models, whoever computes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tailrace.inference.declaration import Model, walk_declared
from tailrace.inference.python_model import GuardedModel, PythonModel
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Release
from tailrace.release.remotes import with_pinned_remotes
from tailrace.server.control import ReleasedModel, ReleasedPipeline


def released_pipelines(release: Release, declared: Iterable[Pipeline]) -> tuple[ReleasedPipeline, ...]:
    """Return the pipelines of a release as the control channel carries them. declared: the same ones."""
    return tuple(
        ReleasedPipeline(
            pipeline.name, release.schemas[pipeline.name], tuple(dict.fromkeys(_models(release, pipeline)))
        )
        for pipeline in declared
    )


def _models(release: Release, pipeline: Pipeline) -> Iterator[ReleasedModel]:
    """Give the models of a pipeline in their order, with those that they fall back to."""
    pinned = iter([model for model in release.models if model.pipeline == pipeline.name])
    for each in walk_declared(with_pinned_remotes(pipeline, release).model):
        match each:
            case Model():
                model = next(pinned)
                yield ReleasedModel(
                    model.name, model.version, model.backend, model.backend_reason, model.registered,
                    model.registered_digest,
                )  # fmt: skip
            case RemoteModel():
                said = "" if each.described is None else each.described.version
                yield ReleasedModel(each.name, each.version or said, each.protocol)
            case PythonModel():
                yield ReleasedModel(each.name, "", GuardedModel.backend)
