"""Calls into other programs: they answer, or are ended, politely first; a run never waits longer than it may."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from customer_runs import spec_of

from tailrace.features.sources import SQL
from tailrace.features.stores.memory import MemoryWriter
from tailrace.offline import outside_calls
from tailrace.offline.materialize import materialize
from tailrace.offline.outside_calls import LateError, OutsideCalls, StoppedError


class Silence:
    """A program that does not answer until it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._over = threading.Event()

    def ask(self) -> str:
        """Wait for it."""
        self._over.wait()
        return "answer"

    def refuse(self) -> None:
        """Hear, and go on."""
        self.told.append("politely")
        raise ConnectionError("nobody hears")

    def end(self) -> None:
        """End."""
        self.told.append("by force")
        self._over.set()


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """Yield a program, which ends with the test."""
    monkeypatch.setattr(outside_calls, "GRACE_S", 0.02)
    monkeypatch.setattr(outside_calls, "LOOK_S", 0.005)
    silence = Silence()
    yield silence
    silence.end()


def test_call_gives_its_answer_or_its_error() -> None:
    """As if it were made here, but on another thread."""
    calls = OutsideCalls(10)
    assert calls.call(lambda: "answer") == "answer"
    assert calls.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 // 0)
    assert not calls.left_behind


def test_late_call_is_ended_politely_then_by_force(silence: Silence) -> None:
    """An end that raises, or is not heard, is followed by the next one."""
    calls = OutsideCalls(0.02)
    with pytest.raises(LateError, match=r"longer than 0\.02 s"):
        calls.call(silence.ask, (silence.refuse, silence.end))
    assert silence.told == ["politely", "by force"]
    assert not calls.left_behind


def test_call_that_cannot_be_ended_is_left_behind(silence: Silence) -> None:
    """Not even an end that hangs itself is waited for."""
    calls = OutsideCalls(0.02)
    began_s = time.monotonic()
    with pytest.raises(LateError):
        calls.call(silence.ask, (silence.ask,))
    assert calls.left_behind
    assert time.monotonic() - began_s < 5


def test_limit_is_one_for_all_calls_and_only_grows(silence: Silence) -> None:
    """What the calls before took is gone; a longer limit that the user has given elsewhere holds."""
    calls = OutsideCalls(0.2)
    calls.extend(0.01)
    assert calls.limit_s == 0.2
    began_s = time.monotonic()
    calls.call(lambda: time.sleep(0.15))
    with pytest.raises(LateError):
        calls.call(silence.ask, (silence.end,))
    assert time.monotonic() - began_s < 0.3
    calls.extend(60)
    assert calls.call(silence.ask) == "answer"


def test_call_of_a_run_that_is_to_stop_is_ended(silence: Silence) -> None:
    """At once, however much time is left; so is one whose run is interrupted."""
    stops: list[bool] = []
    calls = OutsideCalls(60, lambda: len(stops) > 1 or stops.append(True))  # type: ignore[func-returns-value, arg-type]
    with pytest.raises(StoppedError):
        calls.call(silence.ask, (silence.end,))
    assert silence.told == ["by force"]


def test_call_whose_run_is_interrupted_is_ended(silence: Silence) -> None:
    """Ctrl-C comes to the thread that waits, and to no library."""

    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OutsideCalls(60, interrupt).call(silence.ask, (silence.end,))
    assert silence.told == ["by force"]


def test_end_that_is_not_heard_at_first_is_repeated_within_its_grace(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB hears no interrupt between two statements; where the call is over, nothing more is told."""
    monkeypatch.setattr(outside_calls, "GRACE_S", 10)

    def end_at_third() -> None:
        if len(silence.told) == 2:
            silence.end()
        silence.refuse()

    calls = OutsideCalls(0.02)
    with pytest.raises(LateError):
        calls.call(silence.ask, (end_at_third,), repeats=True)
    assert not calls.left_behind
    time.sleep(0.05)
    assert silence.told == ["politely", "politely", "by force", "politely"]


def test_end_is_not_repeated_beyond_its_grace(silence: Silence) -> None:
    """A call that never hears it is left behind in peace."""
    calls = OutsideCalls(0.02)
    with pytest.raises(LateError):
        calls.call(silence.ask, (silence.refuse,), repeats=True)
    assert calls.left_behind
    time.sleep(0.05)
    told = len(silence.told)
    assert told > 1
    time.sleep(0.05)
    assert len(silence.told) == told


def test_call_is_left_behind_where_its_end_is_interrupted(silence: Silence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C ends the wait, and the call goes on: what it uses must not be closed under it."""
    monkeypatch.setattr(outside_calls, "GRACE_S", 10)

    def interrupt() -> bool:
        raise KeyboardInterrupt

    def interrupt_again() -> None:
        silence.told.append("interrupted")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    calls = OutsideCalls(60, interrupt)
    began_s = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            calls.call(silence.ask, (interrupt_again,))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began_s < 5
    assert silence.told == ["interrupted"]
    assert calls.left_behind


# Ibis 12 calls what DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_query_on_duckdb_is_ended_where_its_run_is_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its own work, soon; its folder of what did not fit is removed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "profile.sql").write_text(
        "SELECT sum(a.range * b.range) AS customer_id FROM range(9999999) a, range(9999999) b"
    )
    began_s = time.monotonic()
    with pytest.raises(StoppedError):
        materialize(
            spec_of(SQL("profile.sql")),
            tmp_path,
            MemoryWriter({}),
            is_stopping=lambda: time.monotonic() - began_s > 0.3,
        )
    assert time.monotonic() - began_s < 10
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("cause", [StoppedError, KeyboardInterrupt])
def test_query_on_duckdb_that_cannot_be_ended_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: type[BaseException]
) -> None:
    """A read that hangs hears no interrupt. The run ends all the same, by its own cause, and its folder is removed."""
    monkeypatch.setattr(outside_calls, "GRACE_S", 0.2)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    os.mkfifo(tmp_path / "silent.csv")
    (tmp_path / "profile.sql").write_text("SELECT * FROM read_csv('silent.csv', columns = {'customer_id': 'BIGINT'})")
    before, began_s = set(threading.enumerate()), time.monotonic()

    def is_stopping() -> bool:
        if time.monotonic() - began_s < 0.3:
            return False
        raise cause

    try:
        with pytest.raises(cause):
            materialize(spec_of(SQL("profile.sql")), tmp_path, MemoryWriter({}), is_stopping=is_stopping)
        assert not list((tmp_path / "temporary").iterdir())
        hanging = [each for each in set(threading.enumerate()) - before if each.name == "outside call"]
        assert len(hanging) == 1
    finally:
        os.close(os.open(tmp_path / "silent.csv", os.O_WRONLY | os.O_NONBLOCK))
    hanging[0].join(10)
    assert not hanging[0].is_alive()
