"""The lease of a view while one run works on it: a second run waits, or is told who holds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import LeaseError
from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import StoreWriter

LOOK_S: Final = 0.1
"""How often a run that waits for a lease asks for it."""


@contextmanager
def leased(writer: StoreWriter, view: str, wait_ns: int) -> Iterator[Lease]:
    """Hold the lease of a view. Raises LeaseError where another run holds it still after the wait."""
    end_ns = time.monotonic_ns() + wait_ns
    while True:
        try:
            lease = writer.lease(view)
            break
        except LeaseError:
            left_s = (end_ns - time.monotonic_ns()) / NS_PER_S
            if left_s <= 0:
                raise
            time.sleep(min(LOOK_S, left_s))
    try:
        yield lease
    finally:
        lease.close()
