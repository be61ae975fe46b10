"""The admin port: its pages, its token, its bounds."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from stand_in_supervisor import SupervisorProcess, fetch, poll

from tailrace.errors import SetupError
from tailrace.server.admin import CONNECTIONS_MAX
from tailrace.server.http.shared import RESERVE_MAX
from tailrace.server.options import ServeOptions


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisorProcess]:
    """A ready supervisor of one worker."""
    process = SupervisorProcess(tmp_path_factory.mktemp("admin"), workers=1).wait_ready()
    yield process
    process.end()


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[list[SupervisorProcess]]:
    """Supervisors to be ended after the test."""
    processes: list[SupervisorProcess] = []
    yield processes
    for process in processes:
        process.end()


def ask_raw(port: int, request: bytes) -> bytes:
    """Send bytes and return all that is answered until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_admin_probes_answer(supervisor: SupervisorProcess) -> None:
    """A ready supervisor is alive and ready."""
    assert fetch(supervisor.admin_port, "/livez") == (200, b"alive\n")
    assert fetch(supervisor.admin_port, "/readyz?verbose=1") == (200, b"ready\n")


def test_admin_is_not_ready_before_its_workers(launched: list[SupervisorProcess], tmp_path: Path) -> None:
    """While a worker is still starting, /livez answers 200 and /readyz 503; then both are 200."""
    hold = tmp_path / "hold"
    hold.touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launched.append(SupervisorProcess(tmp_path, workers=1, admin_port=port, files=("serve", str(hold))))

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    poll(answers)
    assert fetch(port, "/livez")[0] == 200
    assert fetch(port, "/readyz")[0] == 503
    hold.unlink()
    poll(lambda: fetch(port, "/readyz")[0] == 200)


def test_admin_status_tells_workers_and_pipelines(supervisor: SupervisorProcess) -> None:
    """The status names version, workers with their state and memory, and each pipeline's layers."""
    pid = supervisor.ask()
    status = poll(lambda: (found := supervisor.status())["pipelines"][0]["requests"] and found)
    [worker] = status["workers"]
    assert (worker["pid"], worker["state"], worker["restarts"]) == (pid, "ready", 0)
    assert poll(lambda: supervisor.status()["workers"][0]["rss_bytes"]) > 1 << 20
    assert status["ready"] is True
    assert status["address"] == f"http://127.0.0.1:{supervisor.port}"
    assert list(status["pipelines"][0]["layers"]) == ["request", "features", "inference", "postprocess", "response"]
    assert status["pipelines"][0]["whole"]["budget_ns"] == 50_000_000
    assert status["warm_up"][0]["name"] == "standin"
    assert status["signatures_required"] is False
    assert '"signatures":"not required"' in supervisor.stderr


def test_admin_port_has_the_console(supervisor: SupervisorProcess) -> None:
    """The page is there, its state tells of the worker, and who listens hears of each second."""
    supervisor.ask()
    port = supervisor.admin_port
    status, page = fetch(port, "/console")
    assert (status, page[:15]) == (200, b"<!doctype html>")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /console/events HTTP/1.1\r\nHost: a\r\n\r\n")
        heard = b""
        while heard.count(b'"points":{"standin"') < 2:
            heard += connection.recv(65_536)
    whole = json.loads(fetch(port, "/console/state")[1])
    assert whole["state"]["workers"][0]["state"] == "ready"
    assert whole["history"]["standin"]["fine"]["at_s"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
        (b"POST /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", 431),
    ],
)
def test_admin_refuses_with_problem_details(supervisor: SupervisorProcess, request_bytes: bytes, status: int) -> None:
    """What cannot be answered is a problem document that carries the same status."""
    head, _, body = ask_raw(supervisor.admin_port, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


def test_admin_head_sends_no_body(supervisor: SupervisorProcess) -> None:
    """HEAD gives the length without the body."""
    answer = ask_raw(supervisor.admin_port, b"HEAD /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 6" in answer


def test_admin_bounds_its_connections_and_answers_whatever_is_open(supervisor: SupervisorProcess) -> None:
    """Idle connections take no more than their places, and a probe on a new one is answered beside them."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            address = ("127.0.0.1", supervisor.admin_port)
            return stack.enter_context(socket.create_connection(address, timeout=10))

        idle = [connect() for _ in range(CONNECTIONS_MAX)]
        over = [connect() for _ in range(RESERVE_MAX + 1)]
        assert over[0].recv(1) == b""
        for path in ("/readyz", "/livez", "/status", "/metrics"):
            assert fetch(supervisor.admin_port, path)[0] == 200
        idle[0].sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[0].recv(4096).startswith(b"HTTP/1.1 200 ")
    poll(lambda: fetch(supervisor.admin_port, "/livez")[0] == 200)


def test_admin_wants_its_token(launched: list[SupervisorProcess], tmp_path: Path) -> None:
    """With a token set, figures need it and probes do not."""
    process = SupervisorProcess(tmp_path, workers=1, admin_token="sesame", trusted_keys=("trusted.pem",))
    launched.append(process)
    assert process.process.stdout is not None
    process.admin_port = json.loads(process.process.stdout.readline())[3]
    assert fetch(process.admin_port, "/readyz")[0] == 200
    assert fetch(process.admin_port, "/status")[0] == 401
    assert fetch(process.admin_port, "/metrics", headers={"Authorization": "Bearer wrong"})[0] == 401
    status, body = fetch(process.admin_port, "/status", headers={"Authorization": "Bearer sesame"})
    assert status == 200
    assert json.loads(body)["signatures_required"] is True
    assert '"signatures":"required"' in process.stderr
    process.note(worker["pid"] for worker in json.loads(body)["workers"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"port": 70_000},
        {"body_bytes_max": 0},
        {"heartbeat_s": 1.0, "frozen_s": 1.5},
        {"admin_host": "0.0.0.0"},
        {"admin_host": "tailrace.example"},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    """A setting that cannot work is an error that names it."""
    with pytest.raises(SetupError) as caught:
        ServeOptions(files=("pipeline.py",), **wrong)
    assert caught.value.where in wrong
    assert caught.value.next


def test_options_open_the_admin_port_with_a_token() -> None:
    """Beyond loopback, a token is enough."""
    assert ServeOptions(files=("pipeline.py",), admin_host="0.0.0.0", admin_token="sesame").admin_host == "0.0.0.0"
