"""`tailrace top`: the console's state in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from console_server import Counted, drifted, filled, served

from tailrace.cli.main import app
from tailrace.cli.top import _or_last, screen
from tailrace.errors import SetupError
from tailrace.monitor.observed import Observed
from tailrace.monitor.slowest import SlowRequest


def test_top_shows_what_the_console_shows() -> None:
    """The verdict, the pipeline, its layers, its views and the worker are there; --json is the state itself."""
    counted = Counted()
    counted.fire()
    with served(counted, filled(counted, 12)) as port:
        shown = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once"]).output
        told = json.loads(CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}/", "--json"]).output)
    assert "firing: latency of fraud" in shown
    for text in ("Within budget", "fraud", "204/s", "queue wait", "inference", "Profile", "100.0%", "worker 0"):
        assert text in shown
    assert told["verdict"]["level"] == "warn"  # what fires is not over, though all is well just now


def test_top_says_where_nobody_answers_and_what_it_lacks() -> None:
    """A wrong address and a missing token are errors that tell what to do."""
    counted = Counted()
    with served(counted, filled(counted, 3), token="t") as port:
        found = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once"])
        assert isinstance(found.exception, SetupError)
        assert "give --token" in str(found.exception)
        assert CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once", "--token", "t"]).exit_code == 0
    gone = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}"])
    assert isinstance(gone.exception, SetupError)
    assert "nobody answers" in str(gone.exception)


def test_top_shows_what_is_observed() -> None:
    """The slowest requests of the last minute with their layers, what has drifted, what was lost; or that none are."""
    counted, now_s = Counted(), time.time()
    layers = (1.0, 30.5, 2.0, 0.5, 0.5)
    request = SlowRequest(
        id="pay-7", at_s=now_s - 5, whole=41, wait=4, layers=layers, release="r1", decision="block", score=0.91,
        degraded=("store_timeout",),
    )  # fmt: skip
    old = SlowRequest(id="old", at_s=now_s - 300, whole=80, wait=4, layers=layers, release="r1")
    counted.said = Observed(at_s=now_s, slow={"fraud": (old, request)}, drift={"fraud": drifted("amount")})
    counted.lose(12, "overwritten")
    with served(counted, filled(counted, 12)) as port:
        shown = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once"], env={"COLUMNS": "160"}).output
    for text in (
        "pay-7",
        "41 ms",
        "30.5 ms",
        "block 0.91",
        "store_timeout",
        "amount",
        "psi",
        "0.34",
        "12 requests",
    ):
        assert text in shown
    assert "old" not in shown
    counted.said = None
    with served(counted, filled(counted, 3)) as port:
        shown = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once"]).output
    assert "serve with --observe" in shown


@pytest.mark.parametrize("length", [21, 36, 128])
def test_top_shows_the_whole_id_of_a_slow_request(length: int) -> None:
    """In 80 columns too it can be copied into `tailrace explain`: ids of one server differ in their last digits."""
    counted, name = Counted(), "".join(f"{number:x}"[-1] for number in range(length - 1)) + "!"
    layers = (1.0, 30.5, 2.0, 0.5, 0.5)
    slow = SlowRequest(id=name, at_s=time.time(), whole=41, wait=4, layers=layers, release="r", decision="prepaid")
    counted.said = Observed(at_s=time.time(), slow={"fraud": (slow,)}, drift={})
    with served(counted, filled(counted, 12)) as port:
        shown = CliRunner().invoke(app, ["top", f"http://127.0.0.1:{port}", "--once"], env={"COLUMNS": "80"}).output
    table = shown.partition("slow request")[2].partition("process ")[0].splitlines()[1:]
    assert "".join(line[:36].strip() if length > 36 else line.split(" ")[0] for line in table).startswith(name)
    assert "features" in table[0]


def test_top_follows_drift_that_is_told_once() -> None:
    """A message has the windows only when they are new: those of the last one are shown until then."""
    assert _or_last(None, {"fraud": 1}) == {"fraud": 1}
    assert _or_last({}, {"fraud": 1}) == {}
    assert _or_last(None, None) == {}


def test_top_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose console tells less is an error with what to do, not a traceback."""
    state = json.loads(filled(Counted(), 3).whole())["state"]
    del state["observed"]
    monkeypatch.setattr("tailrace.cli.top._state", lambda url, token: state)
    found = CliRunner().invoke(app, ["top", "http://127.0.0.1:1", "--once"])
    assert isinstance(found.exception, SetupError)
    assert "the version that the server has" in str(found.exception)


def test_names_do_nothing_to_the_terminal() -> None:
    """A control character or a markup in a name is shown, not done; a rate is drawn as bars."""
    counted = Counted("\x1b[2J[red]evil[/]", "view\x1b]0;title\x07")
    console = filled(counted, 12)
    state = json.loads(console.whole())["state"]
    terminal = Console(force_terminal=True, width=200, color_system=None)
    with terminal.capture() as captured:
        terminal.print(screen(state, {counted.name: deque([0.0, 50.0, 100.0])}))
    text = captured.get()
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text
    assert "[red]evil[/]" in text
    assert " ▄█" in text
