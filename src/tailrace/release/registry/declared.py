"""The versions that a pipeline declares, fetched for who makes no release: `tailrace check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tailrace.inference.declaration import models_of, with_paths
from tailrace.pipeline import Pipeline
from tailrace.release.registry.child import RegistryChoice, url_of
from tailrace.release.registry.envelope import Trust
from tailrace.release.registry.fetching import fetch
from tailrace.release.registry.reference import Reference
from tailrace.release.registry.registry import open_registry


def with_fetched_models(pipeline: Pipeline, choice: RegistryChoice, folder: Path) -> Pipeline:
    """Return a pipeline whose registered models lie in a folder, as they are now; itself where it has none.

    Raises RegistryError: no registry is named, there is no such version, it is damaged or not trusted.
    """
    declared = models_of(pipeline.model)
    if all(model.version is None for model in declared):
        return pipeline
    trust, paths = Trust.read([Path(key) for key in choice.trusted_keys]), []
    for model in declared:
        if model.version is None:
            paths.append(model.directory(pipeline.base_dir))
            continue
        registry = open_registry(url_of(model.version, model.registry, choice, pipeline.base_dir), trust)
        record = registry.resolve(Reference.parse(model.version)).record
        path = folder / record.digest
        if not path.exists():
            path.mkdir()
            fetch(registry, record, path)
        paths.append(path)
    return replace(pipeline, model=with_paths(pipeline.model, iter(paths)))
