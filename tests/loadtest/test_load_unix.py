"""Runs over a Unix socket, against a real server on one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from answering_server import Answering

from tailrace.errors import LoadtestError
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport
from tailrace.loadtest.runner import run_load


async def run_against(path: Path, plan: LoadPlan) -> LoadReport:
    """Run a plan while a server answers on the path."""
    server = await asyncio.get_running_loop().create_unix_server(Answering, str(path))
    async with server:
        return await asyncio.to_thread(run_load, plan)


def test_run_over_a_unix_socket_sends_every_shot(tmp_path: Path) -> None:
    """The host of the URL is not connected to, and each answer finds its shot."""
    bodies = [b'{"number":1}', b'{"number":2}']
    plan = LoadPlan(
        "http://nowhere.invalid/echo", bodies, rate=200, duration_s=0.25, connections=3, keep_bodies=True,
        unix=str(tmp_path / "s"),
    )  # fmt: skip
    report = asyncio.run(run_against(tmp_path / "s", plan))
    assert report.sent == report.answered == 50
    assert report.errors == report.reconnects == 0
    assert report.bodies == bodies * 25


def test_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The error names the path."""
    path = str(tmp_path / "none")
    with pytest.raises(LoadtestError, match="none"):
        run_load(LoadPlan("http://localhost/echo", rate=10, duration_s=0.1, connections=1, unix=path))
