"""Why a window's value is what it is: the entries in it, each with its part, and when it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailrace.features.aggregates import KINDS
from tailrace.features.lanes import Columns
from tailrace.features.states import States
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.windows import Entries, Window, WindowFeature

SPARKS_MAX: Final = 20
"""Bars of one sparkline."""


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of a window, or of a ledger. event_id: None for what is no one event. value: the column, of it alone.

    at_ns, leaves_ns: since the epoch; when it happened (a tile: its first event, by the second), and the first time
    from which a window does not reach back to it; None for a window without a beginning.
    """

    at_ns: int
    event_id: Any
    value: Any
    leaves_ns: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One column.

    begin_ns, end_ns: of its window; begin_ns is None for one without a beginning. counts: of the entries over the
    window in equal steps, at most `SPARKS_MAX`.
    """

    name: str
    begin_ns: int | None
    end_ns: int
    parts: tuple[Part, ...]
    counts: tuple[int, ...]


def explain(codec: StreamCodec, states: States, now_ns: int) -> list[Explanation]:
    """Return why the columns of one entity's state are what they are for an event at `now_ns` without an id."""
    return [_explain(codec, feature, states, now_ns) for feature in codec.windows.features]


def _explain(codec: StreamCodec, feature: WindowFeature, states: States, now_ns: int) -> Explanation:
    window = codec.windows.windows[feature.window]
    begin_ns = None if window.length_ns is None else int(window.begin(np.array([now_ns]))[0])
    end_ns = now_ns - window.delay_ns
    is_distinct = KINDS[feature.kind].takes_any
    parts = _seen(codec, feature, states, begin_ns, end_ns) if is_distinct else []
    for block in (states.events,) if is_distinct else (states.tiles, states.events):
        for place, at in enumerate(block.at.tolist()):
            if (begin_ns is None or at >= begin_ns) and at < end_ns:
                value, is_nothing = _alone(feature, block, place, now_ns)
                if not is_nothing:
                    value = 1 if is_distinct else value  # it is a hash
                    parts.append(Part(at, _id_of(block, place), value, leaves_ns(window, at)))
    return Explanation(feature.name, begin_ns, end_ns, tuple(parts), _counts(parts, begin_ns, end_ns))


def _seen(codec: StreamCodec, feature: WindowFeature, states: States, begin_ns: int | None, end_ns: int) -> list[Part]:
    """Return the values of a ledger that are in a window, each when it was last seen, and for how many it stands."""
    place = next(place for place, use in enumerate(codec.windows.distincts) if use.lane in feature.lanes)
    ledger, window = states.tiles.ledgers[place], codec.windows.windows[feature.window]
    return [
        Part(at, None, 1 << depth, leaves_ns(window, at))
        for at, depth in zip(ledger.at.tolist(), ledger.depths.tolist(), strict=True)
        if (begin_ns is None or at >= begin_ns) and at < end_ns
    ]


def leaves_ns(window: Window, at_ns: int) -> int | None:
    """Return from when on an event at a time is in no window any more."""
    if window.length_ns is None:
        return None
    return (at_ns // window.hop_ns + 1) * window.hop_ns + window.length_ns + window.delay_ns


def _alone(feature: WindowFeature, block: Entries, place: int, now_ns: int) -> tuple[Any, bool]:
    """Return what a column would be of one entry alone, and whether that is nothing."""
    lanes: list[Columns] = [[column[place : place + 1] for column in block.lanes[lane]] for lane in feature.lanes]
    values, is_nothing = KINDS[feature.kind].finalize(lanes, feature.decimals, np.array([now_ns]))
    return values[0].item(), bool(is_nothing[0])


def _id_of(block: Entries, place: int) -> Any:
    if block.ids is None:
        return None
    event_id = block.ids[place]
    return event_id.decode("utf-8", "replace") if isinstance(event_id, bytes) else int(event_id)


def _counts(parts: list[Part], begin_ns: int | None, end_ns: int) -> tuple[int, ...]:
    """Return how many entries are in each of some equal steps of the window."""
    if not parts:
        return ()
    first_ns = min(part.at_ns for part in parts) if begin_ns is None else begin_ns
    step_ns = max((end_ns - first_ns) // SPARKS_MAX + 1, 1)
    counts = [0] * ((end_ns - first_ns - 1) // step_ns + 1)
    for part in parts:
        counts[(part.at_ns - first_ns) // step_ns] += 1
    return tuple(counts)
