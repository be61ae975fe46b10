"""Settling a release: the models that pinned pipelines declare are copied, once, and all workers load the copies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from tailrace.errors import ModelPackageError, SetupError
from tailrace.inference.backends.choice import BackendChoice, choose_backend
from tailrace.inference.declaration import models_of, with_paths
from tailrace.inference.manifest import MANIFEST_FILE, decode_manifest
from tailrace.inference.model_directory import read_manifest, read_while_replaced
from tailrace.pipeline import Pipeline
from tailrace.release.pin import shelf_of
from tailrace.release.pinned import ID_CHARACTERS, Pin, PinnedModel, Release, write_whole
from tailrace.release.probe import probe_directory
from tailrace.release.registry.child import Fetched, RegistryChoice, fetch_for_release, url_of
from tailrace.release.remotes import describe_remotes, with_pinned_remotes
from tailrace.release.shelf import MODELS, Shelf, copy_stream, digest_of
from tailrace.version import VERSION

_NO_CHOICE: Final = RegistryChoice()


def settle(pinned: Pin, pipelines: Sequence[Pipeline], choice: RegistryChoice = _NO_CHOICE) -> Release:
    """Return the release of pipelines that were loaded from a pin; the first to ask makes it, all others read it.

    choice: the registry of models that name none; an alias is looked up now, and never again for this release.
    Raises ModelPackageError for a model that is not there, or not whole; RegistryError for a version so.
    """
    if pinned.release_file.is_file():  # a successor needs no more than to read
        return msgspec.json.decode(pinned.release_file.read_bytes(), type=Release)
    remotes = tuple(describe_remotes(pipelines))
    with shelf_of(pinned) as shelf, shelf.locked():
        if pinned.release_file.is_file():
            return msgspec.json.decode(pinned.release_file.read_bytes(), type=Release)
        models = tuple(_pin_models(shelf, pipelines, choice))
        sources = [os.path.basename(copy) for _, copy in pinned.folders]
        content = [[model.pipeline, model.name, os.path.basename(model.copy)] for model in models]
        content += [[remote.pipeline, remote.name, remote.sent] for remote in remotes]
        release = Release(
            id=digest_of([VERSION, sources, content])[:ID_CHARACTERS],
            models=models,
            schemas={pipeline.name: schema_of(pipeline) for pipeline in pipelines},
            remotes=remotes,
        )
        write_whole(pinned.release_file, release)
        return release


def with_pinned_models(pipeline: Pipeline, release: Release) -> Pipeline:
    """Return a pipeline whose models are those of its release, whatever directories it declares by now.

    Raises SetupError where it declares more models than it did, or fewer.
    """
    pinned = [model for model in release.models if model.pipeline == pipeline.name]
    declared = models_of(pipeline.model)
    if len(pinned) != len(declared):
        raise SetupError(f"it declares {len(declared)} models, its release has {len(pinned)}",
                         where=f"pipeline {pipeline.name!r}", next="start the server again")  # fmt: skip
    found = replace(pipeline, model=with_paths(pipeline.model, (Path(model.copy) for model in pinned)))
    return with_pinned_remotes(found, release)


def chosen_backends(release: Release) -> dict[Path, BackendChoice]:
    """Return the backends of a release's models, by the directories that they are loaded from."""
    return {
        Path(model.copy): msgspec.convert({"name": model.backend, "reason": model.backend_reason}, BackendChoice)
        for model in release.models
    }


def _pin_models(shelf: Shelf, pipelines: Iterable[Pipeline], choice: RegistryChoice) -> Iterator[PinnedModel]:
    """Keep the models of pipelines; give each, as it was declared."""
    versions = _Registered(shelf, choice)
    for pipeline in pipelines:
        for model in models_of(pipeline.model):
            if model.version is None:
                directory, registered, digest = str(model.directory(pipeline.base_dir)), "", ""
                copy = _keep_model(shelf, Path(directory))
            else:
                copy, fetched = versions.keep(model.version, model.registry, pipeline.base_dir)
                directory, registered, digest = fetched.url, fetched.reference, fetched.digest
            backend = choose_backend(copy)
            yield PinnedModel(
                pipeline=pipeline.name,
                name=model.name,
                version=decode_manifest(copy / MANIFEST_FILE).version,
                directory=directory,
                copy=str(copy),
                backend=backend.name,
                backend_reason=backend.reason,
                registered=registered,
                registered_digest=digest,
            )


def _keep_model(shelf: Shelf, directory: Path) -> Path:
    """Keep one model directory; return where. One that is there already, and whole, is not copied again."""
    with suppress(OSError):
        kept = shelf.path_of(MODELS, _manifest_digest(directory))
        if _copy_digest(kept) == kept.name:
            return kept

    def fill(draft: Path) -> str:
        digest = copy_model(directory, draft)
        probe_directory(draft)  # here and not when it is loaded: a copy that is kept has been probed
        return digest

    return shelf.add(MODELS, fill, _copy_digest)


class _Registered:
    """The versions of registries that a release has: each fetched once, so that an alias is one version in all of it.

    choice: the registry of models that name none.
    """

    def __init__(self, shelf: Shelf, choice: RegistryChoice) -> None:
        self._shelf = shelf
        self._choice = choice
        self._kept: dict[tuple[str, str], tuple[Path, Fetched]] = {}

    def keep(self, version: str, registry: str | None, base_dir: Path) -> tuple[Path, Fetched]:
        """Keep a version; return where, and which it is."""
        url = url_of(version, registry, self._choice, base_dir)
        if (version, url) not in self._kept:
            self._kept[version, url] = self._fetch(version, url)
        return self._kept[version, url]

    def _fetch(self, version: str, url: str) -> tuple[Path, Fetched]:
        fetched: list[Fetched] = []

        def fill(draft: Path) -> str:
            fetched.append(fetch_for_release(version, url, self._choice.trusted_keys, draft, str(self._shelf.root)))
            for file in draft.rglob("*"):
                if file.is_file():
                    file.chmod(0o444)  # nothing writes to a copy
            return _manifest_digest(draft)

        return self._shelf.add(MODELS, fill, _copy_digest), fetched[0]


def _copy_digest(copy: Path) -> str:
    """Return the digest of a model directory that is kept; nothing where it is not whole."""
    try:
        read_manifest(copy)
        return _manifest_digest(copy)
    except (ModelPackageError, OSError):
        return ""


def copy_model(directory: Path, draft: Path) -> str:
    """Copy a model directory whole, though it may be replaced meanwhile; return the digest of its manifest.

    The manifest has the digests of all other files. Raises ModelPackageError.
    """

    def copy() -> str:
        read_manifest(directory)  # which says what is wrong, and where
        for file in draft.iterdir():
            file.unlink()
        for file in directory.iterdir():
            if file.is_file():
                with file.open("rb") as source:
                    copy_stream(source.fileno(), draft / file.name)
        read_manifest(draft)
        return _manifest_digest(draft)

    return read_while_replaced(directory, copy)


def _manifest_digest(directory: Path) -> str:
    """Return the digest of a model directory: that of its manifest, which has those of its other files."""
    return digest_of((directory / MANIFEST_FILE).read_text("utf-8", "replace"))


def schema_of(pipeline: Pipeline) -> str:
    """Return the digest of what a caller and a store see of a pipeline: request, response, views."""
    types = [msgspec.json.schema(declared) for declared in (pipeline.request, pipeline.response)]
    views = {view.__name__: view.spec.codec().schema_id for view in pipeline.views}
    return digest_of([types, views])[:ID_CHARACTERS]
