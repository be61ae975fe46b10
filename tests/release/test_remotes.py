from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import tailrace as tr
from inference.protocol_server import ProtocolServer
from tailrace.errors import CompileError
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.remote.stage import remote_stages
from tailrace.pipeline import Pipeline
from tailrace.release.pin import pin
from tailrace.release.pinned import Release
from tailrace.release.remotes import describe_remotes, with_pinned_remotes
from tailrace.release.settle import settle
from tailrace.server.declared import load_all
from tailrace.testing import TestClient


class Row(tr.Request):
    a: float


class Scored(tr.Response):
    score: float


def pipeline_at(url: str, name: str = "far", **declared: Any) -> Pipeline:
    """Return a pipeline whose model is at a server, which must say what it takes."""
    return tr.Pipeline(
        name=name, request=Row, response=Scored, features=[Row.a], budget=tr.Budget("100ms"),
        model=tr.RemoteModel("fraud", url=url, fallback=tr.Constant(0.5), **declared),
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


def test_release_knows_that_the_server_said_nothing() -> None:
    """Declared whole, it is taken as declared for ever: what a server says that comes later makes no sibling differ."""
    server = ProtocolServer()
    url, port = server.url(), server.port
    server.close()
    declared = pipeline_at(url, inputs=[tr.RemoteInput("x")], output="score")
    release = release_of(declared)
    with ProtocolServer(width=5, port=port) as other:
        with pytest.raises(CompileError, match="has 5 columns"):
            TestClient(declared)
        asked = len(other.requests)
        with TestClient(with_pinned_remotes(declared, release)) as client:
            (stage,) = remote_stages(client.plan.inference.stage)
            assert "taken as declared" in stage.notice
            assert str(port) in stage.notice
            assert client.predict({"a": 3.0}) == {"score": 3.0}
        assert all(request.method == "POST" for request in other.requests[asked:])


FILE = """
import tailrace as tr

class Row(tr.Request):
    a: float

class Scored(tr.Response):
    score: float

far = tr.Pipeline(name="far", request=Row, response=Scored, features=[Row.a], budget=tr.Budget("2s"),
                  model=tr.RemoteModel("fraud", url="URL", DECLARED))
"""
WHOLE = 'inputs=[tr.RemoteInput("x")], output="score"'


@pytest.mark.parametrize("declared", ["", WHOLE, WHOLE + ', protocol="oip-binary"'])
def test_id_has_what_changes_the_requests(tmp_path: Path, declared: str) -> None:
    """A server that takes bytes is sent others; one of another shape, or that is down, is sent the same."""
    file = tmp_path / "far.py"
    with ProtocolServer(width=1) as server:
        port = server.port
        file.write_text(FILE.replace("URL", server.url()).replace("DECLARED", declared))
        first, again = id_of(file), id_of(file)
    down = id_of(file)
    with ProtocolServer(width=7, port=port):
        wide = id_of(file)
    with ProtocolServer(width=1, port=port, binary=True):
        binary = id_of(file)
    assert first == again == wide
    assert (down == first) is bool(declared)
    assert (binary == first) is ("oip-binary" in declared)


def id_of(file: Path) -> str:
    """Return the id of a release that is made of a file now."""
    with pin([str(file)], str(file.parent / "kept")) as pinned:
        return settle(pinned, load_all(pinned)).id


def test_server_that_says_nothing_is_not_in_the_release() -> None:
    """What must be asked and cannot is left to the compiler, which tells of it beside all else; so is another URL."""
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
