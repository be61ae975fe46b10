"""Samples of served requests: a plain file of JSON lines, written by a thread of the worker's own, and read again.

The file holds what callers sent: it is made readable by its owner alone. Written with the pipeline's name and release:

    {"time":"2025-06-15T12:00:00.123Z","pipeline":"fraud","release":"3f9c…","request":{…},
     "features":{"amount":12.5,"CustomerActivity.count_1h":3},"provenance":{"CustomerActivity":"fresh"},"score":0.02}

Where a request makes many rows, features, provenance and score are lists, an item a row. A pipeline with a split, a
route, a cascade or a cold start has `branches` too: {"fraud":"challenger"}. What is known of where a call comes from is
there too: `request_id`, `trace` and `client`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from tailrace.errors import SetupError
from tailrace.monitor.seldom import Seldom

WAITING_MAX: Final = 64
"""Parts of the sample that wait to be written; what comes then is lost."""
FILE_BYTES_MAX: Final = 1 << 30
"""Of one file; then the sample ends."""
CLOSE_S: Final = 1.0
"""How long a stopping worker waits for what is still to be written."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One served request. time: when it was answered. features, provenance: by the name of the feature, of the view.

    branches: the way it went at each stage that has several, by its name; null where it did not come there. request_id,
    trace, client: as `Call.origin` tells them.
    """

    time: datetime
    pipeline: str
    release: str
    request: Any
    features: dict[str, Any]
    provenance: dict[str, Any]
    score: Any
    branches: dict[str, Any] = {}
    request_id: str = ""
    trace: str = ""
    client: str = ""


class StoredSample(Sample, frozen=True, kw_only=True):
    """A sample as it is read: the request is left as the JSON that it is."""

    request: msgspec.Raw


class SampleWriter:
    """Appends samples to a file. `put` never waits; what a full disk does not take is lost, counted and logged.

    log: of structlog. file_bytes_max: the file's size at which the sample ends. Raises SetupError where the file cannot
    be opened and `refuse` says that this is a reason not to start.
    """

    def __init__(self, path: Path, log: Any, *, refuse: bool = True, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._seldom = Seldom(log.bind(samples=str(path)))
        self._bytes_max = file_bytes_max
        self._queue: SimpleQueue[Callable[[], Iterable[bytes]] | None] = SimpleQueue()
        self._descriptor = -1
        self._is_torn = self._is_full = False
        self.lost = 0
        """Parts of the sample that were not written."""
        try:
            self._open()
        except OSError as error:
            if refuse:
                what = f"the sample cannot be written: {error.strerror}"
                next_step = "give --sample-requests a file in a folder that may be written"
                raise SetupError(what, where=str(path), next=next_step) from None
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)
        self._thread.start()

    def put(self, lines: Callable[[], Iterable[bytes]]) -> None:
        """Have a part of the sample written. lines: called on the writer's thread, gives them without their ends."""
        if self._queue.qsize() >= WAITING_MAX:
            self.lost += 1
            self._tell("samples are lost", error=f"the disk does not keep up: {WAITING_MAX} parts wait")
            return
        self._queue.put(lines)

    @property
    def waiting(self) -> int:
        """How many parts of the sample are still to be taken up by the writer."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what waits, and end; a disk that hangs is not waited for."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            try:
                self._write(b"".join(b"%b\n" % line for line in lines()))
            except Exception as error:  # of the disk, or of what a request holds: the sample is never worth a worker
                self.lost += 1
                self._tell("samples are lost", error=str(error))
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _write(self, data: bytes) -> None:
        if self._is_full:
            return
        if self._descriptor < 0:
            self._open()
        if self._size + len(data) > self._bytes_max:
            self._is_full = True
            self._tell("the sample has ended", bytes=self._size)
            return
        if self._is_torn:  # a line that was cut short must not swallow the next one
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        self._size += written
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OSError(f"{written} of {len(data)} bytes were written")

    def _tell(self, event: str, **facts: Any) -> None:
        self._seldom.warn(event, lost=self.lost, **facts)


def sample_files(path: Path) -> list[Path]:
    """Return the files of a sample: the file itself, or those of a server's workers, `PATH.0` and so on.

    Raises SetupError where there is none.
    """
    if path.is_file():
        return [path]
    found = [each for each in sorted(path.parent.glob(f"{path.name}.*")) if each.suffix[1:].isdigit()]
    if not found:
        raise SetupError("there is no such sample", where=str(path), next="serve with --sample-requests FILE first")
    return found


def read_samples(files: Iterable[Path]) -> Iterator[StoredSample | None]:
    """Give the samples of some files, in order; None for a line that is none, such as one that was cut short."""
    decoder = msgspec.json.Decoder(StoredSample)
    for path in files:
        with path.open("rb") as file:
            for line in file:
                found = None
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    found = decoder.decode(line)
                if found is not None or line.strip():
                    yield found
