"""The pipeline that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.pipeline import Pipeline


def chosen_pipeline(file: Path, name: str | None) -> Pipeline:
    """Return the pipeline of a name in a file, or its only one. Raises SetupError for a choice that is none."""
    from tailrace.compile.loading import load_pipelines

    found = {pipeline.name: pipeline for pipeline in load_pipelines(file)}
    if name is None and len(found) == 1:
        (pipeline,) = found.values()
        return pipeline
    if name is None or name not in found:
        what = "the file declares several pipelines" if name is None else f"no pipeline is called {name!r}"
        raise SetupError(what, where=str(file), next=f"give --pipeline: one of {', '.join(found)}")
    return found[name]
