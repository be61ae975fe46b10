"""The two sides of a replay: two versions of one pipeline's model, or two pipelines, each as it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tailrace.compile.loading import load_pipelines
from tailrace.errors import ModelPackageError, SetupError
from tailrace.inference.declaration import Model, StageDeclaration, asked_of, change_all, models_of
from tailrace.inference.model_directory import read_manifest
from tailrace.pipeline import Pipeline
from tailrace.release.registry.child import RegistryChoice, url_of
from tailrace.release.registry.declared import with_fetched_models
from tailrace.release.registry.envelope import Trust
from tailrace.release.registry.fetching import fetch
from tailrace.release.registry.reference import Reference
from tailrace.release.registry.registry import open_registry

OnFetch = Callable[[str, int, int], None]


class Side(NamedTuple):
    """A pipeline as it would decide. name: as the user called it; of an alias, the version that it names."""

    name: str
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Place:
    """Where the sides are found. file: FILE or FILE:NAME of the pipeline, for versions and model directories.

    model: which of the pipeline's models they take the place of, where it has several. choice: the registry. folder:
    for what is fetched, empty.
    """

    file: str | None
    model: str | None
    choice: RegistryChoice
    folder: Path
    on_fetch: OnFetch = lambda file, done, whole: None


def find_sides(one: str, other: str, place: Place) -> tuple[Side, Side]:
    """Return both sides. Raises SetupError for what names none, RegistryError, ModelPackageError for the broken."""
    are_files = [_is_file(text) for text in (one, other)]
    if all(are_files):
        first = _of_file(one, place)
        _check_modules(one, other)
        return first, _of_file(other, place)
    if any(are_files):
        raise SetupError("a model cannot be held against a pipeline", where=f"{one} and {other}",
                         next="name two versions or model directories, or two pipeline files")  # fmt: skip
    if place.file is None:
        raise SetupError("no pipeline is named that the models would score for", where="--pipeline",
                         next="give the file that declares it: --pipeline FILE, or FILE:NAME")  # fmt: skip
    pipeline = _declared(place.file)
    return _of_model(one, pipeline, place), _of_model(other, pipeline, place)


def _is_file(text: str) -> bool:
    return text.endswith(".py") or ".py:" in text


def _of_file(text: str, place: Place) -> Side:
    return Side(text, with_fetched_models(_declared(text), place.choice, place.folder))


def _declared(text: str) -> Pipeline:
    """Return the pipeline that FILE or FILE:NAME names."""
    path, colon, name = text.rpartition(":")
    if not colon or text.endswith(".py"):
        path, name = text, ""
    found = {pipeline.name: pipeline for pipeline in load_pipelines(Path(path))}
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        what = f"no pipeline is called {name!r}" if name else "the file declares several pipelines"
        raise SetupError(what, where=path, next=f"name one: {' or '.join(f'{path}:{each}' for each in found)}")
    return found[name]


def _check_modules(one: str, other: str) -> None:
    """Raise SetupError where the second file would be given a module beside the first in place of its own."""
    folders = [Path(text.rpartition(":")[0] if ".py:" in text else text).resolve().parent for text in (one, other)]
    if folders[0] == folders[1]:
        return
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or not file or Path(file).parent not in {folders[0], folders[0] / name}:
            continue
        if (folders[1] / f"{name}.py").exists() or (folders[1] / name).is_dir():
            raise SetupError(f"both files have a module {name!r} beside them, and Python keeps one of a name",
                             where=str(folders[1]), next="give the two another name each")  # fmt: skip


def _of_model(text: str, pipeline: Pipeline, place: Place) -> Side:
    """Return the pipeline with one model in the place of its own."""
    called, own_name, directory = (
        _fetched(text, pipeline, place) if "@" in text and not Path(text).is_dir() else _local(text)
    )
    name = _replaced(pipeline, own_name, place.model)
    changed = replace(pipeline, model=_with_model(pipeline.model, name, directory.resolve()))
    return Side(called, with_fetched_models(changed, place.choice, place.folder))


def _local(text: str) -> tuple[str, str, Path]:
    """Return how a model directory is called, its model's name, and where it is."""
    if not Path(text).is_dir():
        raise ModelPackageError("there is no such model directory", where=text,
                                next="name a directory of tailrace package, or a version: NAME@NUMBER")  # fmt: skip
    return text, read_manifest(Path(text)).name, Path(text)


def _fetched(text: str, pipeline: Pipeline, place: Place) -> tuple[str, str, Path]:
    """Return which version a text names, its model's name, and where it was fetched to.

    A registry that the command line does not name is the one that the pipeline's models have.
    """
    declared = next((model.registry for model in models_of(pipeline.model) if model.registry), None)
    url = place.choice.url or url_of(text, declared, place.choice, pipeline.base_dir)
    registry = open_registry(url, Trust.read([Path(key) for key in place.choice.trusted_keys]))
    record = registry.resolve(Reference.parse(text)).record
    directory = place.folder / record.digest
    if not directory.exists():
        directory.mkdir()
        fetch(registry, record, directory, on_progress=place.on_fetch)
    return record.reference, record.name, directory


def _replaced(pipeline: Pipeline, own_name: str, asked: str | None) -> str:
    """Return which of the pipeline's models is replaced: the one asked for, of the same name, or the only one."""
    models = models_of(pipeline.model)
    names = [model.name for model in models]
    if asked is None:
        alike = [each.name for each in models if own_name in {each.name, (each.version or "").partition("@")[0]}]
        packaged = [each.name for each in asked_of(pipeline.model) if isinstance(each, Model)]
        asked = next(iter(alike or packaged[:1]), None)
        if not alike and len(packaged) > 1:
            asked = None
    if asked not in names:
        what = f"which of its models {own_name!r} would replace is not clear" if names else "it has no packaged model"
        raise SetupError(what, where=f"pipeline {pipeline.name!r}",
                         next=f"give --model: one of {', '.join(names) or 'none'}")  # fmt: skip
    return asked


def _with_model(declared: StageDeclaration, name: str, path: Path) -> StageDeclaration:
    """Return a stage in which the models of a name lie in another directory."""

    def replaced(each: StageDeclaration) -> StageDeclaration:
        is_it = isinstance(each, Model) and each.name == name
        return replace(each, path=path, version=None, registry=None) if is_it else each  # type: ignore[type-var]

    return change_all(declared, replaced)
