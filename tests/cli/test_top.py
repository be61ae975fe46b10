"""`tailrace top`: the console's state in a terminal."""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from console_server import Counted, filled, served

from tailrace.cli.main import app
from tailrace.cli.top import screen
from tailrace.errors import SetupError


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
    assert told["verdict"]["level"] == "good"


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
