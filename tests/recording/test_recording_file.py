"""A recording is read whole or not at all: one that is cut, altered, of another version or none is told apart."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.errors import SetupError
from tailrace.recording.file import FORMAT, RecordedCall, read_recording, write_recording

CALL = RecordedCall(
    at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    head=b"POST /v1/pipelines/fraud/predict HTTP/1.1\r\nHost: a\r\n\r\n",
    body=b"\x00\xff\n{}",
    status=422,
    answer=b'{"status":422}',
    layers={"queue": 0.1},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a recording of two calls."""
    path = tmp_path / "calls.trr"
    write_recording(path, "http://a", [CALL, CALL])
    return path


def test_calls_are_read_as_they_were_written(path: Path) -> None:
    """Whatever bytes they hold; none but the owner may read them, and nothing else is left in the folder."""
    recording = read_recording(path)
    assert (recording.server, recording.calls) == ("http://a", (CALL, CALL))
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    write_recording(path, "http://b", [])
    assert read_recording(path).calls == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_file_that_is_cut_or_altered_is_refused(path: Path, data: st.DataObject) -> None:
    """At any byte: the checksum is of all of them."""
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    other = path.with_name("other.trr")
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    for damaged in (content[:place], content[:place] + bytes([byte]) + content[place + 1 :]):
        other.write_bytes(damaged)
        if damaged.rstrip() != content.rstrip():  # the end of the last line says nothing
            with pytest.raises(SetupError, match=r"cut short|altered|no recording|version"):
                read_recording(other)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no recording"),
        (b'{"a":1}\n', "no recording"),
        (b"\xff\xfe\n", "no recording"),
        (f'{{"format":"{FORMAT}","version":2}}\n'.encode(), "its version is 2, and 1 is read here"),
    ],
)
def test_other_file_is_told_apart(tmp_path: Path, content: bytes, told: str) -> None:
    """And one that is not there."""
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(SetupError, match=told):
        read_recording(tmp_path / "other")
    with pytest.raises(SetupError, match="cannot be read"):
        read_recording(tmp_path / "none")


def test_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Where the folder is none."""
    with pytest.raises(SetupError, match="cannot be written"):
        write_recording(tmp_path / "none" / "calls.trr", "http://a", [CALL])
