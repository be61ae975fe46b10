"""The way of answers from a batch to the transports of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from tailrace.batch import Batch, Transport

_transport_of = attrgetter("transport")


def deliver(batch: Batch) -> None:
    """Give a batch to the transport of its calls: once to each transport, if there are several."""
    calls = batch.calls
    if len(set(map(_transport_of, calls))) == 1:
        calls[0].transport.deliver(batch, range(len(calls)))
    else:
        deliver_places(batch, range(len(calls)))


def deliver_places(batch: Batch, places: Sequence[int]) -> None:
    """Give the calls at some places of a batch to their transports, once to each."""
    if len(set(map(_transport_of, batch.calls))) == 1:
        batch.calls[0].transport.deliver(batch, places)
        return
    found: dict[Transport, list[int]] = {}
    for place in places:
        found.setdefault(batch.calls[place].transport, []).append(place)
    for transport, own in found.items():
        transport.deliver(batch, own)
