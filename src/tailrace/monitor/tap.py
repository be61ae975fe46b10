"""The recorder that tells the observer of each batch: it holds batches for some milliseconds, and writes them together.

What it holds is let go of at the next flush: the arrays of a batch are its own, neither reused by a model nor mapped
from a store, and its calls may outlive their connections for so long. Held together, batches cost one concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec

from tailrace.batch import Batch
from tailrace.deadline import NS_PER_S, Clock
from tailrace.loop_load import Loop
from tailrace.monitor.frame_writer import FrameWriter, is_whole
from tailrace.pipeline import Pipeline

HELD_S: Final = 0.05
"""How long a batch is held at most: what is lost with a worker that is killed."""
HELD_BATCHES_MAX: Final = 512
HELD_ROWS_MAX: Final = 512
"""Batches are held until they are so many, or have so many rows: the loop does nothing else while they are written."""
_LOG_NS: Final = 60 * NS_PER_S
_DONE: Final = object()


class Ring(Protocol):
    """What frames are written to. slot: of the worker. frame_bytes_max: of a frame; a longer one is lost."""

    slot: int

    @property
    def frame_bytes_max(self) -> int:
        """How long a frame may be."""
        ...

    def write(self, frame: bytes, items: int) -> bool:
        """Write a frame; False for one that is too long."""
        ...

    def lose(self, items: int) -> None:
        """Count items that come into no frame."""
        ...


class Tap:
    """Tells the observer of one pipeline's batches; a recorder of its engine. traced: spans are made of them.

    labels: of decisions, as they are known once the models are loaded: they may be the classes of one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        release: str,
        ring: Ring,
        clock: Clock,
        loop: Loop,
        log: Any,
        *,
        traced: bool = False,
        labels: Sequence[str] = (),
    ) -> None:
        self._name = pipeline.name
        self._frames = FrameWriter(pipeline, release, ring.slot, traced=traced, labels=labels)
        self._ring, self._clock, self._loop, self._log = ring, clock, loop, log
        self._held: list[Batch] = []
        self._held_ns: list[int] = []
        self._bare: list[tuple[Batch, int]] = []
        self._rows = 0
        self._writing: Iterator[None] | None = None
        self._logged_ns = -_LOG_NS
        self._encode = msgspec.msgpack.Encoder().encode

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Hold a batch; of one that broke off only the calls are told."""
        if not is_whole(batch):
            self._hold_bare(batch, finished_ns)
            return
        held = self._held
        if not (held or self._bare):
            self._loop.call_later(HELD_S, self._begin)
        held.append(batch)
        self._held_ns.append(finished_ns)
        self._rows += batch.rows
        if len(held) >= HELD_BATCHES_MAX or self._rows >= HELD_ROWS_MAX:
            self.flush()

    def record_coalesced(self, batch: Batch, finished_ns: int) -> None:
        """Hold calls that another's computation has answered; see `CoalescedRecorder`."""
        self._hold_bare(batch, finished_ns)

    def _hold_bare(self, batch: Batch, finished_ns: int) -> None:
        """Hold a batch of which only the calls are told."""
        if not (self._held or self._bare):
            self._loop.call_later(HELD_S, self._begin)
        self._bare.append((batch, finished_ns))
        self._rows += len(batch.calls)
        if len(self._bare) >= HELD_BATCHES_MAX or self._rows >= HELD_ROWS_MAX:
            self.flush()

    def flush(self) -> None:
        """Write at once what is held, if anything is. What cannot be written is lost, and counted."""
        self._finish()
        self._take()
        self._finish()

    def _begin(self) -> None:
        """Write what is held a step a turn of the loop, so that calls that come meanwhile are served between."""
        self._finish()
        self._take()
        self._step()

    def _take(self) -> None:
        """Have what is held be what is written."""
        if not (self._held or self._bare):
            return
        held, finished_ns, ended = self._held, self._held_ns, sorted(self._bare, key=_is_shared)
        self._held, self._held_ns, self._bare, self._rows = [], [], [], 0
        finished_ns += [each_ns for _, each_ns in ended]
        self._writing = self._write(held, [batch for batch, _ in ended], finished_ns)

    def _step(self) -> None:
        """Take the next step of what is written, and have the one behind it follow."""
        writing = self._writing
        if writing is not None:
            if next(writing, _DONE) is _DONE:
                self._writing = None
            else:
                self._loop.call_later(0.0, self._step)

    def _finish(self) -> None:
        """Take all steps that are left."""
        writing, self._writing = self._writing, None
        if writing is not None:
            for _ in writing:
                pass

    def _write(self, held: list[Batch], bare: list[Batch], finished_ns: list[int]) -> Iterator[None]:
        """Write batches as one frame, or as several where that were too long for the ring; in steps."""
        requests = sum([len(batch.requests) for batch in held]) + sum(map(_asked, bare))
        try:
            epoch_ns = self._clock.wall_ns() - self._clock.now_ns()
            frame = self._encode((yield from self._frames.frame(held, bare, finished_ns, epoch_ns)))
            if len(frame) > self._ring.frame_bytes_max and len(finished_ns) > 1:
                yield from self._write_halves(held, bare, finished_ns)
                return
            written = self._ring.write(frame, requests)
            cause = "what one batch was asked is longer than a quarter of the ring"
        except Exception as error:  # of what a request holds, say: it is never worth a worker
            self._ring.lose(requests)
            written, cause = False, repr(error)
        if not written and (now_ns := self._clock.now_ns()) >= self._logged_ns + _LOG_NS:
            self._logged_ns = now_ns
            self._log.warning("predictions are not logged", pipeline=self._name, cause=cause)

    def _write_halves(self, held: list[Batch], bare: list[Batch], finished_ns: list[int]) -> Iterator[None]:
        """Write the first half of some batches, and then the other."""
        middle = len(finished_ns) // 2
        ours = max(middle - len(held), 0)
        yield from self._write(held[:middle], bare[:ours], finished_ns[:middle])
        yield from self._write(held[middle:], bare[ours:], finished_ns[middle:])


def _is_shared(ended: tuple[Batch, int]) -> bool:
    """Return whether a batch was answered by others' computations: such come last."""
    return bool(ended[0].coalesced)


def _asked(batch: Batch) -> int:
    """Return how many requests the calls of a batch have."""
    return sum(len(call.requests) if type(call.requests) is list else 1 for call in batch.calls)
