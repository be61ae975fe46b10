"""A ring of frames in shared memory, from one worker to the observer: it is written without waiting for its reader.

An anonymous file (memfd) that the supervisor makes, and the workers of a slot and the observer inherit. It has one
writer at a time (claimed_ring.py):

    8 header cells | the frames, each: 3 cells, its length, how many items were told before it and how many it holds,
    and its bytes, up to the next multiple of 8

Positions are counts of bytes since the beginning, so that they never turn back; a frame stands at its position modulo
the ring's size, and never over the ring's end. The writer moves `oldest` on, past the frames that it is to overwrite,
read or not; it writes a frame, and then moves `written` on. A reader copies a frame and looks then whether it has
become older than `oldest` meanwhile: if so, it goes on there. A writer that is killed in the middle of a frame leaves
`written` before it, where its successor goes on, and `oldest` behind what it has spoilt. By the counts of items a
reader knows how many it has missed, whichever process of either side was there meanwhile.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Final

from tailrace.monitor.shared import make_block_fd

_MAGIC: Final = int.from_bytes(b"TAILRING", "little")
_HEADER_BYTES: Final = 64
_AT_MAGIC, _AT_SIZE, _AT_OLDEST, _AT_WRITTEN, _AT_READ, _AT_TOLD, _AT_SEEN = range(7)
_HEAD_BYTES: Final = 24
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
    """The worker's side. It goes on where the worker before it has stopped. slot: of the worker."""

    def __init__(self, fd: int, slot: int = 0) -> None:
        super().__init__(fd)
        self.slot = slot
        self._at: int = self._header[_AT_WRITTEN]
        self._oldest: int = self._header[_AT_OLDEST]
        self._told: int = self._header[_AT_TOLD]
        self.frame_bytes_max = self.size_bytes // FRAME_SHARE_MAX - _HEAD_BYTES

    def write(self, frame: bytes, items: int = 1) -> bool:
        """Write a frame, over the oldest ones where there is no room; False for one that is too long: it is lost."""
        length = len(frame)
        if length > self.frame_bytes_max:
            self.lose(items)
            return False
        size, at = self.size_bytes, self._at
        taken = _HEAD_BYTES + (length + 7 & ~7)
        place = at % size
        rest = size - place
        begin = at if taken <= rest else at + rest
        end = begin + taken
        self._make_room(end - size)
        if begin != at:
            self._lengths[place // 8] = _SKIP
            place = 0
        cell = place // 8
        self._lengths[cell], self._lengths[cell + 1], self._lengths[cell + 2] = length, self._told, items
        self._frames[place + _HEAD_BYTES : place + _HEAD_BYTES + length] = frame
        self._at = self._header[_AT_WRITTEN] = end
        self.lose(items)  # told, and not lost; only now, that no reader misses what is not there yet
        return True

    def lose(self, items: int) -> None:
        """Count items that are in no frame to come."""
        self._told += items
        self._header[_AT_TOLD] = self._told

    def _make_room(self, until: int) -> None:
        """Move the oldest frame's position on to where a frame begins at `until` or after it."""
        oldest = self._oldest
        if until <= oldest:
            return
        lengths, size = self._lengths, self.size_bytes
        while oldest < until:
            place = oldest % size
            length = lengths[place // 8]
            oldest += size - place if length == _SKIP else _HEAD_BYTES + (length + 7 & ~7)
        self._oldest = self._header[_AT_OLDEST] = oldest


class RingReader(_Ring):
    """The observer's side. It goes on where the observer before it has said that it has kept what was read.

    overtaken: how often frames were overwritten before they were read. lost: the items that were in them, and those
    that came into none.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._at: int = self._header[_AT_READ]
        self._seen: int = self._header[_AT_SEEN]
        self.overtaken = self.lost = 0

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
            cell = place // 8
            length = self._lengths[cell]
            frame, before, items = b"", 0, 0
            is_frame = length != _SKIP and size - place >= _HEAD_BYTES
            if not is_frame:
                end = at + size - place
            else:
                end = at + _HEAD_BYTES + (length + 7 & ~7)
                before, items = self._lengths[cell + 1], self._lengths[cell + 2]
                frame = bytes(self._frames[place + _HEAD_BYTES : place + _HEAD_BYTES + length])
            if (oldest := header[_AT_OLDEST]) > at:  # overwritten before it was copied, or meanwhile
                self.overtaken += 1
                self._at = oldest
                continue
            self._at = end
            if is_frame:
                self.lost += max(before - self._seen, 0)
                self._seen = before + items
                yield frame
        told = header[_AT_TOLD]  # read first: all of that is in frames that are written
        if self._at == header[_AT_WRITTEN] and told > self._seen:
            self.lost += told - self._seen
            self._seen = told

    def take_lost(self) -> int:
        """Return how many items were lost since this was last asked."""
        lost, self.lost = self.lost, 0
        return lost

    @property
    def mark(self) -> tuple[int, int]:
        """Up to where frames were read, for `keep`."""
        return self._at, self._seen

    def keep(self, mark: tuple[int, int]) -> None:
        """Say that what was read up to a mark is kept: a successor need not read it again."""
        self._header[_AT_READ], self._header[_AT_SEEN] = mark
