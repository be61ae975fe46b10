"""A ring of frames in shared memory, from one worker to the observer: it is written without waiting for its reader.

An anonymous file (memfd) that the supervisor makes, and the worker of a slot and the observer inherit:

    8 header cells | the frames, each: 8 bytes of length, its bytes, up to the next multiple of 8

Positions are counts of bytes since the beginning, so that they never turn back; a frame stands at its position modulo
the ring's size, and never over the ring's end. The writer moves `oldest` on, past the frames that it is to overwrite,
read or not; it writes a frame, and then moves `written` on. A reader copies a frame and looks then whether it has
become older than `oldest` meanwhile: if so, it goes on there. A writer that is killed in the middle of a frame leaves
`written` before it, where its successor goes on, and `oldest` behind what it has spoilt.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Final

from tailrace.monitor.shared import make_block_fd

_MAGIC: Final = int.from_bytes(b"TAILRING", "little")
_HEADER_BYTES: Final = 64
_AT_MAGIC, _AT_SIZE, _AT_OLDEST, _AT_WRITTEN, _AT_READ = range(5)
_LENGTH_BYTES: Final = 8
_SKIP: Final = (1 << 64) - 1
"""The length of what is no frame: the rest up to the ring's end, where the next one does not fit."""
RING_BYTES: Final = 16 << 20
"""Of one worker: 20,000 predictions of 30 features, four seconds at 5,000 a second."""
FRAME_SHARE_MAX: Final = 4
"""A frame takes one in so many of the ring's bytes at most."""


def make_ring_fd(name: str, size_bytes: int = RING_BYTES) -> int:
    """Return a new anonymous file for one ring. size_bytes: of its frames, a multiple of 8. The caller owns it."""
    if size_bytes <= 0 or size_bytes % 8:
        raise ValueError(f"a ring of {size_bytes} bytes; take a multiple of 8")
    fd = make_block_fd(name)
    os.ftruncate(fd, _HEADER_BYTES + size_bytes)
    with mmap.mmap(fd, _HEADER_BYTES) as mapping, memoryview(mapping) as view, view.cast("Q") as header:
        header[_AT_MAGIC], header[_AT_SIZE] = _MAGIC, size_bytes
    return fd


class _Ring:
    """Either side's mapping of the file. Raises ValueError for a file that is no ring."""

    def __init__(self, fd: int) -> None:
        size_bytes = os.fstat(fd).st_size - _HEADER_BYTES
        self._mapping = mmap.mmap(fd, 0)
        view = memoryview(self._mapping)
        self._header = view[:_HEADER_BYTES].cast("Q")
        if self._header[_AT_MAGIC] != _MAGIC or self._header[_AT_SIZE] != size_bytes:
            raise ValueError("the file is no ring")
        self._frames = view[_HEADER_BYTES:]
        self._lengths = self._frames.cast("Q")
        self.size_bytes = size_bytes


class RingWriter(_Ring):
    """The worker's side. It goes on where the worker before it has stopped."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._at: int = self._header[_AT_WRITTEN]
        self._oldest: int = self._header[_AT_OLDEST]
        self.frame_bytes_max = self.size_bytes // FRAME_SHARE_MAX - _LENGTH_BYTES

    def write(self, frame: bytes) -> bool:
        """Write a frame, over the oldest ones where there is no room; False for one that is too long."""
        length = len(frame)
        if length > self.frame_bytes_max:
            return False
        size, at = self.size_bytes, self._at
        taken = _LENGTH_BYTES + (length + 7 & ~7)
        place = at % size
        rest = size - place
        begin = at if taken <= rest else at + rest
        end = begin + taken
        self._make_room(end - size)
        if begin != at:
            self._lengths[place // 8] = _SKIP
            place = 0
        self._lengths[place // 8] = length
        self._frames[place + _LENGTH_BYTES : place + _LENGTH_BYTES + length] = frame
        self._at = self._header[_AT_WRITTEN] = end
        return True

    def _make_room(self, until: int) -> None:
        """Move the oldest frame's position on to where a frame begins at `until` or after it."""
        oldest = self._oldest
        if until <= oldest:
            return
        lengths, size = self._lengths, self.size_bytes
        while oldest < until:
            place = oldest % size
            length = lengths[place // 8]
            oldest += size - place if length == _SKIP else _LENGTH_BYTES + (length + 7 & ~7)
        self._oldest = self._header[_AT_OLDEST] = oldest


class RingReader(_Ring):
    """The observer's side. It goes on where the observer before it has said that it has kept what was read.

    overtaken: how often frames were overwritten before they were read.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._at: int = self._header[_AT_READ]
        self.overtaken = 0

    @property
    def waiting_bytes(self) -> int:
        """How many bytes are written and not read."""
        return min(self._header[_AT_WRITTEN] - self._at, self.size_bytes)

    def read(self) -> Iterator[bytes]:
        """Give the frames that are there, the oldest first."""
        header, size = self._header, self.size_bytes
        while self._at < header[_AT_WRITTEN]:
            at = self._at
            place = at % size
            length = self._lengths[place // 8]
            frame = b""
            if length == _SKIP:
                end = at + size - place
            else:
                end = at + _LENGTH_BYTES + (length + 7 & ~7)
                frame = bytes(self._frames[place + _LENGTH_BYTES : place + _LENGTH_BYTES + length])
            if (oldest := header[_AT_OLDEST]) > at:  # overwritten before it was copied, or meanwhile
                self.overtaken += 1
                self._at = oldest
                continue
            self._at = end
            if length != _SKIP:
                yield frame

    @property
    def position(self) -> int:
        """Up to where frames were read."""
        return self._at

    def keep(self, position: int) -> None:
        """Say that what was read up to a position is kept: a successor need not read it again."""
        self._header[_AT_READ] = position
