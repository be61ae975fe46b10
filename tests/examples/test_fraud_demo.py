"""The demonstration fails when something is wrong, not when a machine is slow; and it leaves no process."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import demo
import numpy as np
import pytest
from decisions import Decided
from demo import check_answers, check_scores, serve
from rich.console import Console

from tailrace.errors import TailraceError
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.processes import children_of, is_running, start_of
from tailrace.loadtest.record import BROKEN, UNANSWERED, make_record
from tailrace.loadtest.report import LoadReport, build_report

STUBBORN = f"""\
#!{sys.executable}
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()
"""


def report_of(*statuses: int) -> LoadReport:
    """Return the report of a load with these outcomes."""
    record = make_record(np.arange(1, len(statuses) + 1, dtype=np.int64))
    record.sent_ns[:] = record.intended_ns
    record.answered_ns[:] = record.intended_ns
    record.statuses[:] = statuses
    return build_report(LoadPlan("http://h/", duration_s=1), record, 1)


def test_demo_on_a_slow_machine_is_no_failure() -> None:
    """Payments that were refused for lack of time are told, and the others are shown."""
    check_answers(report_of(503, 504, 503, 200))


@pytest.mark.parametrize("statuses", [(503, 503), (200, 500), (200, 422), (200, BROKEN), (200, UNANSWERED), (404,)])
def test_demo_whose_answers_fail_is_a_failure(statuses: tuple[int, ...]) -> None:
    """An error, a broken connection, a silence, or nothing but refusals is told with the log."""
    with pytest.raises(TailraceError, match=r"serve\.log"):
        check_answers(report_of(*statuses))


def test_demo_with_wrong_scores_is_a_failure() -> None:
    """Scores that are not those of the training's own code are no demonstration; one of a hundred may be."""
    none = np.zeros(200, bool)
    decided = [Decided(none.astype(str), none, none * 1.0, none, none, differing, 0.0) for differing in (2, 3)]
    check_scores(decided[0], short=0)
    with pytest.raises(TailraceError, match="3 of 200 served scores differ"):
        check_scores(decided[1], short=0)


def test_demo_with_a_payment_lost_still_checks_the_others() -> None:
    """What was refused or lost explains some scores of its own customer, and no more."""
    none = np.zeros(200, bool)
    decided = [Decided(none.astype(str), none, none * 1.0, none, none, differing, 0.0) for differing in (12, 13)]
    check_scores(decided[0], short=1)
    with pytest.raises(TailraceError, match="13 of 200 served scores differ"):
        check_scores(decided[1], short=1)


def test_demo_that_is_kept_sends_on_and_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --keep the payments come round after round until Ctrl-C, as if made then, and the address is told."""
    plans: list[LoadPlan] = []

    def load(plan: LoadPlan, tell: object) -> None:
        plans.append(plan)
        if len(plans) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_load", load)
    served = demo.Served("http://127.0.0.1:1", "http://127.0.0.1:2", 0, 0.0)
    replay = SimpleNamespace(bodies=[b'{"transaction_id":"7","amount":2.5,"time":"2026-11-30T00:01:00Z"}'])
    terminal = Console(width=80)
    with terminal.capture() as captured, pytest.raises(KeyboardInterrupt):
        demo.keep_sending(served, replay, 5.0, terminal)  # type: ignore[arg-type]
    assert "http://127.0.0.1:2/console" in captured.get()
    assert [plan.rate for plan in plans] == [5.0, 5.0]
    payments = [json.loads(body) for plan in plans for body in plan.bodies]
    assert len({each["transaction_id"] for each in payments}) == len(payments) == 2 * 5 * demo.KEPT_S
    assert {each["amount"] for each in payments} == {2.5}
    first, second = (datetime.fromisoformat(each["time"]) for each in (payments[0], payments[5]))
    assert (second - first).total_seconds() == 1
    assert abs((datetime.now(UTC) - first).total_seconds()) < 60


def test_end_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not end when asked is killed, and so are its workers, each in a session of its own."""
    stubborn = tmp_path / "tailrace"
    stubborn.write_text(STUBBORN)
    stubborn.chmod(0o755)
    for name, value in {"TAILRACE": str(stubborn), "LOG": tmp_path / "log", "END_S_MAX": 0.2}.items():
        monkeypatch.setattr(demo, name, value)
    with serve() as served:
        (worker,) = children_of(served.pid)
        assert is_running(worker)
    assert not is_running(served.pid)
    end_s = time.monotonic() + 20
    while start_of(worker):
        assert time.monotonic() < end_s, "a worker is left"
        time.sleep(0.01)
