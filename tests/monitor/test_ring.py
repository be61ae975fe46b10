"""The ring of frames: what is read is what was written, however far behind the reader is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.monitor.ring import FRAME_SHARE_MAX, RingReader, RingWriter, make_ring_fd

SIZE = 1_024


@contextmanager
def ring(size_bytes: int = SIZE) -> Iterator[int]:
    """Give the descriptor of a new ring."""
    fd = make_ring_fd("test", size_bytes)
    try:
        yield fd
    finally:
        os.close(fd)


def test_frames_are_read_in_order() -> None:
    """Each frame once, empty ones too."""
    with ring() as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        frames = [b"", b"a", b"b" * 8, b"c" * 13]
        assert all(map(writer.write, frames))
        assert list(reader.read()) == frames
        assert list(reader.read()) == []
        assert (reader.overtaken, reader.waiting_bytes) == (0, 0)


@given(st.lists(st.one_of(st.just(None), st.integers(0, SIZE // FRAME_SHARE_MAX)), max_size=200))
def test_what_is_read_is_the_newest_of_what_was_written(steps: list[int | None]) -> None:
    """A reader that comes at any time finds frames whole and in order; those it has missed are older ones."""
    with ring() as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        written: list[bytes] = []
        read: list[bytes] = []
        for step in [*steps, None]:
            if step is None:
                read += reader.read()
            else:
                frame = f"{len(written)}:".encode().ljust(step, b"x")
                if writer.write(frame):
                    written.append(frame)
                else:
                    assert len(frame) > writer.frame_bytes_max
        places = [int(frame.partition(b":")[0]) for frame in read]
        assert places == sorted(set(places))
        assert [written[place] for place in places] == read
        if not reader.overtaken:
            assert read == written
        if written:
            assert read[-1] == written[-1]


def test_reader_far_behind_loses_the_oldest() -> None:
    """The newest frames are there, as many as the ring holds."""
    with ring() as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        for number in range(1_000):
            writer.write(b"%08d" % number)
        assert list(reader.read()) == [b"%08d" % number for number in range(1_000 - SIZE // 32, 1_000)]
        assert (reader.overtaken, reader.lost) == (1, 1_000 - SIZE // 32)


def test_successors_go_on() -> None:
    """What a reader has not kept is read again by the next one; a new writer writes behind the last."""
    with ring() as fd:
        RingWriter(fd).write(b"one")
        first = RingReader(fd)
        assert list(first.read()) == [b"one"]
        assert list(RingReader(fd).read()) == [b"one"]
        first.keep(first.mark)
        RingWriter(fd).write(b"two")
        assert list(RingReader(fd).read()) == [b"two"]


def test_what_is_lost_is_counted_whoever_was_there() -> None:
    """Frames that are overwritten while there is no reader, and what comes into no frame, by the items in them."""
    with ring() as fd:
        RingWriter(fd).write(b"kept", items=2)
        reader = RingReader(fd)
        list(reader.read())
        reader.keep(reader.mark)
        for _ in range(100):
            assert RingWriter(fd).write(b"", items=3)  # a new writer each time
        successor = RingReader(fd)
        assert 3 * len(list(successor.read())) + successor.lost == 300
        assert not RingWriter(fd).write(bytes(SIZE), items=7)
        before = successor.lost
        assert list(successor.read()) == []
        assert successor.lost == before + 7


WRITES = """
import sys
from tailrace.monitor.ring import RingWriter
writer = RingWriter(int(sys.argv[1]))
print(flush=True)
number = 0
while True:
    number += 1
    writer.write((b"%d:" % number).ljust(number % 3_000, b"%d" % (number % 10)))
"""


@pytest.mark.parametrize("kills", [3])
def test_writer_that_is_killed_leaves_no_torn_frame(kills: int) -> None:
    """Whenever it dies, and while it overwrites what is read: every frame is whole, and the next writer goes on."""
    with ring(1 << 16) as fd:
        reader = RingReader(fd)
        for _ in range(kills):
            writer = subprocess.Popen([sys.executable, "-c", WRITES, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE)
            assert writer.stdout is not None
            writer.stdout.readline()
            seen = 0
            while seen < 3_000:
                for frame in reader.read():
                    number = int(frame.partition(b":")[0])
                    assert frame == (b"%d:" % number).ljust(number % 3_000, b"%d" % (number % 10))
                    seen += 1
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            for frame in reader.read():
                assert frame.startswith(b"%d:" % int(frame.partition(b":")[0]))


def test_what_is_no_ring_is_refused() -> None:
    """Neither side maps a file of another kind."""
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4_096)
    with pytest.raises(ValueError, match="no ring"):
        RingReader(fd)
    os.close(fd)
