"""The last lines of the log: bounded, whoever writes them, and never in the way of the log."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from tailrace.server import log_lines
from tailrace.server.channel import ChildChannel, SupervisorChannel
from tailrace.server.control import Heartbeat, ToCompanion
from tailrace.server.log_lines import AGE_S, LINES_MAX, TEXT_MAX, TOLD_MAX, TRACE_MAX, LogLine, LogLines


def said(lines: tuple[LogLine, ...]) -> list[str]:
    """Return what lines say."""
    return [line.text for line in lines]


def test_line_is_kept_and_handed_on_as_it_is() -> None:
    """The log writes what it always has; what is kept has the level, the facts, and the end of a traceback."""
    lines, written = LogLines("worker 1"), io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(written),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            lines.keep,
            structlog.processors.JSONRenderer(),
        ],
    ).bind(pid=7)
    log.warning("disk is slow", path="/var/log", waited_s=0.5, models={"a": 1})
    try:
        raise ValueError("deep")
    except ValueError:
        log.error("it broke", exc_info=True)
    first, second = lines.since(0)
    assert (first.level, first.who, first.text) == (
        "warning", "worker 1", 'disk is slow path=/var/log waited_s=0.5 models={"a":1}',
    )  # fmt: skip
    assert second.text.startswith("it broke\n")
    assert second.text.endswith("ValueError: deep")
    assert json.loads(written.getvalue().splitlines()[0])["waited_s"] == 0.5


def test_lines_are_bounded() -> None:
    """However many lines there are, and however long; what comes from several threads is all counted."""
    lines = LogLines()

    def write() -> None:
        for number in range(LINES_MAX):
            lines.keep(None, "info", {"event": "x" * 10_000, "exception": "y" * 10_000, "number": number})

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines.heard == 4 * LINES_MAX
    assert len(lines.since(0)) == LINES_MAX
    assert max(map(len, said(lines.since(0)))) <= TEXT_MAX + TRACE_MAX + 1


def test_lines_of_long_ago_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that has gone by, whatever the clock on the wall is set to."""
    lines, now_s = LogLines(), [100.0]
    monkeypatch.setattr(log_lines, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    lines.hear([LogLine(9e9, "info", "", "old")])
    now_s[0] += AGE_S
    lines.hear([LogLine(0.0, "info", "", "new")])
    assert said(lines.since(0)) == ["old", "new"]
    now_s[0] += 1
    assert said(lines.since(0)) == ["new"]
    assert said(lines.since(2)) == []


def test_line_that_cannot_be_said_does_not_stop_the_log() -> None:
    """A fact whose text fails is left out; the event is kept, and handed on."""

    class Awkward:
        def __str__(self) -> str:
            raise RuntimeError

    lines, event = LogLines(), {"event": "it happens", "what": Awkward()}
    assert lines.keep(None, "info", event) is event
    assert said(lines.since(0)) == ["it happens"]


def test_child_tells_the_newest_lines_and_how_many_more_there_were() -> None:
    """Each once; a burst does not fill the channel, and what is left out is said."""
    lines = LogLines("observer")
    lines.hear(LogLine(0, "info", "observer", str(number)) for number in range(3))
    assert said(lines.take()) == ["0", "1", "2"]
    assert lines.take() == ()
    lines.hear(LogLine(0, "info", "observer", str(number)) for number in range(TOLD_MAX + 5))
    first, *others = said(lines.take())
    assert first == "5 more lines, left out here"
    assert others == [str(number) for number in range(5, TOLD_MAX + 5)]


def test_lines_come_with_the_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child has logged is with the supervisor a heartbeat later."""
    lines = LogLines("observer")
    monkeypatch.setattr("tailrace.server.channel.LINES", lines)
    ours, theirs = socket.socketpair()

    async def heard() -> Any:
        supervisor, child = SupervisorChannel(ours), ChildChannel(theirs.detach(), ToCompanion)
        lines.hear([LogLine(1.0, "info", "observer", "it is done")])
        beating = asyncio.create_task(child.beat(0.01))
        found = await supervisor.receive()
        beating.cancel()
        supervisor.close()
        child.close()
        return found

    found = asyncio.run(heard())
    assert isinstance(found, Heartbeat)
    assert found.lines == (LogLine(1.0, "info", "observer", "it is done"),)
