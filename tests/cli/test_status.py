"""`tailrace status`: how a server is, by its words and by its exit code."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from console_server import Counted, drifted, filled, served

from tailrace.cli.main import app
from tailrace.cli.status import DEGRADED, HEALTHY, UNREACHABLE
from tailrace.monitor.observed import Observed
from tailrace.monitor.recent import Recent
from tailrace.monitor.snapshot import pipeline_snapshots
from tailrace.monitor.tracing.outcomes import TraceState
from tailrace.server.admin import PredictionStatus, Status

COLUMNS = 80
SPANS = {"exported": 2_100, "rejected": 0, "failed": 0, "dropped": 0, "limited": 0}


class Shown(Counted):
    """A server that has a status too, of what was counted."""

    def __init__(self, name: str = "fraud", view: str = "Profile") -> None:
        super().__init__(name, view)
        self.sheds = 0
        self.lost: dict[str, int] = {}
        self.traces: TraceState | None = None

    def answer(self, calls: int, time_ms: float = 5.0, wait_ms: float = 0.5) -> None:
        """Count calls that were answered, and what was shed beside them."""
        super().answer(calls, time_ms, wait_ms)
        if self.sheds:
            self.shed(self.sheds)

    def status(self) -> Status:
        """Return what /status tells."""
        metrics, recent = self.merge(), Recent()
        recent.add(metrics)
        return Status(
            version="1.0", pid=1, uptime_s=7_500, ready=self.ready, address=self.url, releases=self.releases(),
            workers=self.workers(), companions=self.companions(), pipelines=pipeline_snapshots(metrics), recent_s=5.0,
            recent=pipeline_snapshots(metrics), latencies=recent.latencies(), warm_up=(), signatures_required=False,
            alerts=self.alerts(), drift={} if self.said is None else self.said.drift, outcomes={},
            predictions=PredictionStatus(40_812, self.lost), traces=self.traces,
        )  # fmt: skip


def ask(port: int, *options: str) -> Result:
    """Run the command, in a terminal of 80 columns."""
    return CliRunner().invoke(app, ["status", f"http://127.0.0.1:{port}", *options], env={"COLUMNS": str(COLUMNS)})


@contextmanager
def shown(counted: Shown, **more: Any) -> Iterator[int]:
    """Serve the pages of a server that has been busy; yield their port."""
    with served(counted, filled(counted, 12), **more) as port:
        yield port


def test_status_of_a_server_that_is_well_is_short_and_ends_with_0() -> None:
    """The verdict stands first; then what is served with its times and sources, and the processes; in 80 columns."""
    counted = Shown()
    counted.traces = TraceState(to="collector:4318", spans=SPANS, waiting=0, fault="")
    with shown(counted) as port:
        found = ask(port)
    assert found.exit_code == HEALTHY
    lines = found.output.splitlines()
    assert lines[0].startswith(" Within budget: p99")
    for text in ("up 2.08 h", "fraud", "features", "p99, 10 min", "Profile", "100.0%", "worker 0", "40,812 requests"):
        assert text in found.output
    assert "traces: 2,100 spans to collector:4318, none lost" in found.output
    assert max(map(len, lines)) <= COLUMNS
    assert "…" not in found.output


def test_status_tells_what_is_wrong_and_ends_with_1() -> None:
    """A verdict that is bad, an alert that fires, drift, and what was lost, each with its cause."""
    counted = Shown()
    counted.fire()
    counted.lost = {"overwritten": 12, "unwritten": 0}
    counted.said = Observed(at_s=time.time(), drift={"fraud": drifted("amount")})
    counted.traces = TraceState(to="collector:4318", spans=SPANS | {"failed": 70}, waiting=0, fault="it answers 401")
    with shown(counted) as port:
        found = ask(port)
    assert found.exit_code == DEGRADED
    told = " ".join(found.output.split())
    for text in (
        "FIRING latency of fraud for 3 s: p99 is 130 ms", "https://example.org/latency",
        "drift: 1 of 30 series: amount (psi)", "lost: 12 overwritten", "lost: 70 failed (it answers 401)",
    ):  # fmt: skip
        assert text in told


def test_status_ends_with_1_while_nothing_is_served() -> None:
    """No worker is ready; and where calls are shed, also in a single line."""
    counted = Shown()
    counted.ready = False
    with shown(counted) as port:
        found = ask(port, "--quiet")
    assert (found.exit_code, found.output.strip()) == (DEGRADED, "Not ready: no worker is ready to serve")
    counted.ready = True
    counted.sheds = 30
    with shown(counted) as port:
        found = ask(port, "--quiet")
    assert found.exit_code == DEGRADED
    assert found.output.startswith(" Shedding ")


def test_status_as_json_is_the_page_with_the_verdict() -> None:
    """For a program; the exit code is the same."""
    counted = Shown()
    counted.fire()
    with shown(counted) as port:
        found = ask(port, "--json")
    assert found.exit_code == DEGRADED
    told = json.loads(found.output)
    assert told["verdict"]["level"] == "warn"  # what fires is not over, though all is well just now
    assert told["verdict"]["text"].startswith("Within budget")
    assert told["latencies"]["1m"]["fraud"]["whole"]["count"] > 0


def test_server_that_does_not_answer_is_2() -> None:
    """Nobody is there, or it wants a token: a script cannot take that for degraded."""
    with shown(Shown(), token="t") as port:
        assert ask(port).exit_code == ask(port, "--json").exit_code == UNREACHABLE
        assert ask(port, "--quiet", "--token", "t").exit_code == HEALTHY
    found = ask(port, "--quiet")
    assert found.exit_code == UNREACHABLE
    assert "nobody answers" in found.stderr


def test_address_without_a_scheme_is_one_too() -> None:
    """As a person types it."""
    with shown(Shown()) as port:
        assert CliRunner().invoke(app, ["status", f"127.0.0.1:{port}", "--quiet"]).exit_code == HEALTHY


def test_names_are_shown_without_what_a_terminal_would_act_on() -> None:
    """A pipeline, a view or a cause may hold anything."""
    counted = Shown("bad\x1b[2J", "view\x07")
    counted.fire("a cause\x1b]0;title\x07")
    with shown(counted) as port:
        found = ask(port)
    assert not {"\x1b", "\x07"} & set(found.output)
