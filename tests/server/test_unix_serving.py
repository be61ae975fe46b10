"""`tailrace serve --unix`: the same answers as on the port."""

from __future__ import annotations

import http.client
import json
import stat
from pathlib import Path

import msgspec
from serving import serving
from unix_client import connect_unix

PATH = "/v1/pipelines/log/predict"


def test_calls_on_the_socket_are_answered_as_on_the_port(tmp_path: Path, pipelines_dir: Path) -> None:
    """JSON and MessagePack, on one connection; the log names the socket, and only its owner may connect."""
    path, request = tmp_path / "s", {"amount": 1.5, "label": "a"}
    with serving(tmp_path / "log", pipelines_dir / "log.py", "--unix", str(path)) as server:
        assert server.events("ready")[0]["unix"] == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = http.client.HTTPConnection("x")
        client.sock = connect_unix(path)
        answers = []
        for body, kind in ((json.dumps(request), "json"), (msgspec.msgpack.encode(request), "msgpack")):
            client.request("POST", PATH, body, {"Content-Type": f"application/{kind}"})
            answer = client.getresponse()
            assert (answer.status, answer.headers["content-type"]) == (200, f"application/{kind}")
            answers.append(answer.read())
        client.close()
        assert json.loads(answers[0]) == msgspec.msgpack.decode(answers[1]) == server.ask("log", request).body
    assert not path.exists()
