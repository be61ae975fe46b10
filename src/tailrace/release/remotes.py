"""What the servers of remote models said when a release was made: kept with it, so that a restart asks nobody.

A worker is replaced when it dies, which may be while such a server is down; and a server that serves another model by
then must not make siblings of one release differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from tailrace.inference.declaration import walk_declared
from tailrace.inference.remote.authorization import AuthorizationError, read_authorization
from tailrace.inference.remote.declaration import RemoteModel, with_described
from tailrace.inference.remote.described import Described
from tailrace.inference.remote.failure import RemoteError
from tailrace.inference.remote.metadata import describe
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import PinnedRemote, Release
from tailrace.release.shelf import digest_of


def describe_remotes(pipelines: Iterable[Pipeline]) -> Iterator[PinnedRemote]:
    """Ask the server of each remote model; give what it said, or that it said nothing.

    One that says nothing and must is left out: it is told of when its pipeline is compiled.
    """
    for pipeline in pipelines:
        for model in dict.fromkeys(_remote_models(pipeline)):
            with suppress(RemoteError, AuthorizationError):
                described = describe(model, read_authorization(model))
                yield PinnedRemote(
                    pipeline=pipeline.name,
                    name=model.name,
                    url=model.url,
                    described=described,
                    sent=digest_of(_sent(model, described)),
                )


def with_pinned_remotes(pipeline: Pipeline, release: Release) -> Pipeline:
    """Return a pipeline whose remote models are known by what their servers said when the release was made."""
    said = {(each.name, each.url): each.described for each in release.remotes if each.pipeline == pipeline.name}
    known = {model: said[key] for model in _remote_models(pipeline) if (key := (model.name, model.url)) in said}
    return replace(pipeline, model=with_described(pipeline.model, known)) if known else pipeline


def _sent(model: RemoteModel, described: Described) -> list[object]:
    """Return what a server said that changes what it is sent: what nobody declared, and how tensors travel."""
    return [
        [[tensor.name, tensor.dtype] for tensor in described.inputs] if model.inputs is None else [],
        [tensor.name for tensor in described.outputs] if model.output is None else [],
        sorted(tensor.name for tensor in described.inputs if len(tensor.shape) == 1),
        described.is_binary and model.protocol != "oip-binary",
    ]


def _remote_models(pipeline: Pipeline) -> Iterator[RemoteModel]:
    return (each for each in walk_declared(pipeline.model) if isinstance(each, RemoteModel))
