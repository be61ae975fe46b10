from __future__ import annotations

from typing import Any

import msgspec
import pytest

import tailrace as tr
from inference.protocol_server import ProtocolServer
from tailrace.errors import CompileError
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Release
from tailrace.release.remotes import describe_remotes, with_pinned_remotes
from tailrace.testing import TestClient


class Row(tr.Request):
    a: float


class Scored(tr.Response):
    score: float


def pipeline_at(url: str, name: str = "far") -> Pipeline:
    """Return a pipeline whose model is at a server, which must say what it takes."""
    return tr.Pipeline(
        name=name, request=Row, response=Scored, features=[Row.a], budget=tr.Budget("100ms"),
        model=tr.RemoteModel("fraud", url=url, fallback=tr.Constant(0.5)),
    )  # fmt: skip


def release_of(*pipelines: Pipeline) -> Release:
    """Return a release as it is read again."""
    release = Release(id="1", models=(), schemas={}, remotes=tuple(describe_remotes(pipelines)))
    return msgspec.json.decode(msgspec.json.encode(release), type=Release)


def test_release_knows_what_the_server_said() -> None:
    """A pipeline of a release compiles while the server is down, though nothing is declared, and equals its own."""
    with ProtocolServer(width=1) as server:
        declared = pipeline_at(server.url())
        release = release_of(declared)
    with pytest.raises(CompileError):
        TestClient(declared)
    pinned = with_pinned_remotes(declared, release)
    assert pinned == declared
    with TestClient(pinned) as client:
        assert client.predict({"a": 3.0}) == {"score": 0.5}


def test_server_that_says_nothing_is_not_in_the_release() -> None:
    """What cannot be asked is left to the compiler, which tells of it beside the other mistakes; so is another URL."""
    server = ProtocolServer(width=1)
    server.close()
    assert not release_of(pipeline_at(server.url())).remotes
    with ProtocolServer(width=1) as other:
        release = release_of(pipeline_at(other.url()))
        pinned = with_pinned_remotes(pipeline_at(server.url()), release)
        assert isinstance(pinned.model, RemoteModel)
        assert pinned.model.described is None
        assert with_pinned_remotes(pipeline_at(other.url(), "another"), release).model.described is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("versions", "version"), [(["3"], "3"), ([3], "3"), (["2", "3"], ""), ([], ""), (None, ""),
                                                   ([["3"]], ""), ({"a": 3}, "")])  # fmt: skip
def test_version_is_the_only_one_that_the_server_has(versions: Any, version: str) -> None:
    """A server of several versions, or one that says something odd, is taken without one, and never refused for it."""
    with ProtocolServer(width=1) as server:
        server.versions = versions
        (remote,) = release_of(pipeline_at(server.url())).remotes
    assert remote.described.version == version
