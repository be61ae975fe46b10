"""`POST …/predict?mode=accepted` against a real server: 202 once on disk, the result to a real receiver."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest
from receiver import SECRET, declare, receiving
from serving import Server, fetch, serving, start_serve, wait_for

REQUEST = {"amount": 1.5, "label": "a"}


def test_result_of_an_accepted_request_is_posted_and_signed(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the caller would have been answered comes to the receiver, under the id that the caller got."""
    monkeypatch.setenv("RESULTS_SECRET", SECRET)
    with receiving() as receiver:
        file = declare(tmp_path, pipelines_dir, f'tr.Webhook("{receiver.url}", secret_env="RESULTS_SECRET")')
        with serving(tmp_path / "log", file, "--accepted", str(tmp_path / "accepted")) as server:
            url = f"{server.predict_url('log')}?mode=accepted"
            status, _, body = fetch(url, json.dumps(REQUEST).encode(), {"X-Request-Id": "a1"})
            assert status == 202, body
            (members,) = receiver.wait(1)
            assert members["id"] == json.loads(body)["id"]
            assert members["response"] == server.ask("log", REQUEST).body
            assert (members["status"], members["request_id"], members["pipeline"]) == ("answered", "a1", "log")
            again = fetch(url, json.dumps(REQUEST).encode(), {"X-Request-Id": "a1"})
            assert (again[0], again[2]) == (202, body)
            wait_for(lambda: server.metric("tailrace_deliveries_total", 'outcome="delivered"') == 1, 5)
            assert server.metric("tailrace_accepted_total") == 1
            assert len(receiver.bodies) == 1


@pytest.mark.slow
def test_nothing_that_was_accepted_is_lost_whatever_is_killed(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, the courier, then the supervisor, each by kill -9 while requests come; a server that starts goes on.

    What was answered 202 arrives, with the answer to its own request; what arrives twice has the same id.
    """
    monkeypatch.setenv("RESULTS_SECRET", SECRET)
    accepted: dict[str, str] = {}
    with receiving() as receiver:
        file = declare(tmp_path, pipelines_dir, f'tr.Webhook("{receiver.url}", secret_env="RESULTS_SECRET")')
        options = ("--accepted", str(tmp_path / "accepted"))
        server = start_serve(tmp_path / "log", file, "--workers", "2", *options)
        server.wait_ready()
        companions = server.companions()
        assert [each["name"] for each in companions] == ["courier"]
        for number in range(300):
            if number % 60 == 30:
                victims = [*server.workers(), *server.companions()]
                os.kill(victims[number // 60 % len(victims)]["pid"], signal.SIGKILL)
            send(server, number, accepted)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        wait_for(lambda: not server.processes(), 30)
        with serving(tmp_path / "log2", file, *options) as again:  # with one worker
            send(again, 1_000, accepted)
            receiver.wait(len(accepted), 60)
            wait_for(lambda: again.metric("tailrace_accepted_waiting") == 0, 10)
        assert len(accepted) > 250
        assert accepted.keys() <= set(receiver.ids)
        for members in receiver.bodies:
            assert members["response"]["label"] == members["request_id"]
            assert accepted.get(members["id"], members["request_id"]) == members["request_id"]


def send(server: Server, number: float, accepted: dict[str, str]) -> None:
    """Have one request accepted, asking again with its id until it is; note it by the id it got."""
    url, label = f"{server.predict_url('log')}?mode=accepted", f"n{number}"
    body = json.dumps({"amount": 1 + number, "label": label}).encode()
    for _ in range(200):
        status, _, answer = fetch(url, body, {"X-Request-Id": label})
        if status == 202:
            accepted[json.loads(answer)["id"]] = label
            return
        time.sleep(0.05)
    pytest.fail(f"{status} {answer!r}")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no secret", "no results", "second server"])
def test_server_that_could_not_deliver_does_not_start(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """It says what to declare, or to set, and ends with 1."""
    results, options = (
        'tr.Webhook("http://127.0.0.1:1/", secret_env="RESULTS_SECRET")',
        ("--accepted", str(tmp_path / "a")),
    )
    said = {
        "no secret": "RESULTS_SECRET",
        "no results": "results=tr.Webhook",
        "second server": "another server delivers",
    }
    if case == "second server":
        monkeypatch.setenv("RESULTS_SECRET", SECRET)
        (tmp_path / "a").mkdir()
        descriptor = os.open(tmp_path / "a" / "courier.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    file = declare(tmp_path, pipelines_dir, "None" if case == "no results" else results)
    server = start_serve(tmp_path / "log", file, *options)
    try:
        assert server.process.wait(60) == 1
    finally:
        server.end()
    assert said[case] in server.log.read_text()


@pytest.mark.slow
def test_receiver_that_hangs_or_fails_holds_no_live_call_up(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live calls are answered as before, memory has its bound, and all arrives when the receiver is well again."""
    monkeypatch.setenv("RESULTS_SECRET", SECRET)
    with receiving() as receiver:
        webhook = f'tr.Webhook("{receiver.url}", secret_env="RESULTS_SECRET", timeout="500ms")'
        file = declare(tmp_path, pipelines_dir, webhook)
        with serving(tmp_path / "log", file, "--accepted", str(tmp_path / "accepted")) as server:
            receiver.hangs, accepted = True, dict[str, str]()
            for number in range(40):
                send(server, number, accepted)
                assert server.ask("log", REQUEST).status == 200
            wait_for(lambda: server.metric("tailrace_deliveries_total", 'outcome="retried"') > 0, 20)
            receiver.hangs, receiver.status = False, 500
            receiver.ended.set()
            wait_for(lambda: len(receiver.refused) > 2, 20)
            receiver.status = 200
            receiver.wait(40, 60)
            assert server.metric("tailrace_deliveries_total", 'outcome="set_aside"') == 0


@pytest.mark.slow
def test_request_that_kills_its_worker_is_answered_with_an_error_after_three(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule ends the process: three workers go, then the receiver is told; what was beside it is answered."""
    monkeypatch.setenv("RESULTS_SECRET", SECRET)
    with receiving() as receiver:
        file = declare(tmp_path, pipelines_dir, f'tr.Webhook("{receiver.url}", secret_env="RESULTS_SECRET")')
        kill = '[tr.Rule("kill", when=lambda request: (request.amount == 666.5) & _kill(request.amount), then="low")]'
        text = file.read_text().replace("    results=", f"    rules={kill},\n    results=")
        file.write_text(text + KILL)
        with serving(tmp_path / "log", file, "--accepted", str(tmp_path / "accepted")) as server:
            accepted: dict[str, str] = {}
            for number in (1, 665.5, 2, 3):
                send(server, number, accepted)
            by_label = {each["request_id"]: each for each in receiver.wait(4, 90)}
            assert by_label["n665.5"]["status"] == "failed"
            assert "processes have ended" in by_label["n665.5"]["error"]["detail"]
            assert {by_label[f"n{number}"]["status"] for number in (1, 2, 3)} == {"answered"}
            assert len(server.events("worker died")) == 3


KILL = """

def _kill(amount):
    import os
    import signal

    if (amount == 666.5).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return amount > 0
"""
