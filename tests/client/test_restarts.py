"""The client against `tailrace serve`, while a server drains and another one goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from server.serving import serving
from tailrace.client import Client, Options
from tailrace.errors import ServingError


@pytest.mark.slow
def test_server_that_drains_costs_no_call(pipelines_dir: Path, tmp_path: Path) -> None:
    """Of two servers, on a port and on a Unix socket, one is stopped under load: each call is answered."""
    calls: list[int] = []
    failures: list[ServingError] = []
    ended = threading.Event()
    file = pipelines_dir / "log.py"

    def call(client: Client, name: int) -> None:
        while not ended.is_set():
            try:
                answer: Any = client.predict("log", {"amount": 1.0, "label": str(name)})
            except ServingError as error:
                failures.append(error)
            else:
                assert answer["label"] == str(name)
                calls.append(name)

    with (
        serving(tmp_path / "a.log", file) as one,
        serving(tmp_path / "b.log", file, "--unix", str(tmp_path / "s")),
        Client([one.url, f"unix:{tmp_path / 's'}"], Options(budget="10s", choose="turns")) as client,
    ):
        threads = [threading.Thread(target=call, args=(client, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        try:
            ended.wait(1.0)
            assert one.end() == 0
            before = len(calls)
            ended.wait(1.0)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert [str(each) for each in failures] == []
    assert len(calls) > before > 0
