"""A writer on a thread of its own: it answers and refuses as the writer does, and what writes runs there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tailrace.errors import LeaseError
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.features.stores.prompt_writer import ROWS_MAX, PromptWriter
from tailrace.features.stores.runs import PageRow


class Doubling:
    """Doubles one value; notes the thread that does so."""

    keys = (b"{c:1}",)
    tombstones = (b"gone",)

    def __init__(self) -> None:
        self.thread = ""

    def values(self, places: object, before: list[bytes | None], forgotten: object) -> list[bytes | None]:
        """Return the new value."""
        self.thread = threading.current_thread().name
        return [2 * (before[0] or b"")]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[PromptWriter]:
    """Yield a writer of LMDB."""
    with ThreadPoolExecutor(1, "writing") as thread, closing(PromptWriter(LmdbWriter(tmp_path), thread)) as writer:
        yield writer


def test_prompt_writer_does_what_the_writer_does(writer: PromptWriter) -> None:
    """Each of its calls, with what it returns."""
    lease = writer.lease("Profile")
    with pytest.raises(LeaseError):
        writer.lease("Profile")
    run = writer.begin_run("Profile")
    assert writer.write(run, [PageRow(b"{c:1}", b"gone", b"row")], [(b"note", b"n")]).written == 1
    change = Doubling()
    writer.update(change, [(b"note", b"m")])
    assert (change.thread, writer.get(b"{c:1}"), writer.get(b"note")) == ("writing_0", b"rowrow", b"m")
    assert list(writer.scan(b"{c", b"}")) == [b"{c:1}"]
    assert writer.exchange([(b"{c:2}", b"two")], [b"note"]) == 1
    assert writer.remove(run, [b"{c:1}", b"{c:2}", b"{c:3}"]) == 2
    lease.close()


def test_prompt_writer_refuses_as_the_writer_does(writer: PromptWriter) -> None:
    """An error comes to the caller; the thread goes on."""
    run = writer.begin_run("Profile")
    later = writer.begin_run("Profile")
    with pytest.raises(LeaseError):
        writer.write(run, [])
    writer.write(later, [])


def test_prompt_writer_holds_the_lock_for_few_rows_at_a_time(tmp_path: Path) -> None:
    """A worker on the same core waits for as long; all rows are written, and the notes behind the last."""
    inner = LmdbWriter(tmp_path)
    with ThreadPoolExecutor(1) as thread, closing(PromptWriter(inner, thread)) as writer:
        run = writer.begin_run("Profile")
        rows = [PageRow(b"{c:%04d}" % place, b"gone", b"row") for place in range(2 * ROWS_MAX + 1)]
        begin = inner._environment.info()["last_txnid"]
        assert writer.write(run, rows, [(b"note", b"n")]).written == len(rows)
        assert inner._environment.info()["last_txnid"] - begin == 3
        assert writer.get(b"note") == b"n"
        assert writer.write(run, [], [(b"note", b"m")]).written == 0
        assert writer.get(b"note") == b"m"
