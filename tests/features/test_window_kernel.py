from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_samples import Happened, codec_of, events_of, spec_of, states_of

from tailrace.batch import Provenance
from tailrace.features import aggregates as kinds
from tailrace.features.aggregates import LIFETIME, Aggregate
from tailrace.features.events import Events
from tailrace.features.view_rows import ViewRows
from tailrace.features.window_kernel import LIBRARY, WindowKernel, open_library
from tailrace.features.windows import LaneUse, WindowSet

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the library of windows was not compiled")

NONE = Path("no-such-library")
ENTITIES = 3
HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS
SPAN_NS = 2 * DAY_NS
AMOUNT_MAX = 1e4

WINDOWS = st.sampled_from(["1s", "59s", "61s", "5m", "1h", "3601s", "3602s", "1d", "7d", LIFETIME])
DELAYS = st.sampled_from([None, None, "1s", "10m", "1d"])
WHERES = st.sampled_from([None, None, "amount > 0", "is_web"])
TIMES = st.one_of(
    st.integers(0, SPAN_NS),
    st.sampled_from([0, 1, 10**9, 59 * 10**9, 60 * 10**9, HOUR_NS, HOUR_NS + 1, DAY_NS, SPAN_NS]),
)
AMOUNTS = st.one_of(
    st.integers(-(10**6), 10**6).map(lambda cents: cents / 100), st.floats(-AMOUNT_MAX, AMOUNT_MAX), st.just(np.nan)
)
HAPPENED = st.builds(
    Happened, entity=st.integers(0, ENTITIES - 1), at_ns=TIMES, id=st.integers(0, 40), amount=AMOUNTS,
    is_web=st.booleans(),
)  # fmt: skip
BATCHES = st.lists(st.tuples(TIMES, st.lists(HAPPENED, min_size=1, max_size=25)), min_size=1, max_size=3).map(
    lambda batches: sorted(batches, key=lambda batch: batch[0])
)


@st.composite
def aggregates(draw: st.DrawFn) -> Aggregate:
    """Draw an aggregate of any kind."""
    kind = draw(st.sampled_from([*sorted(kinds.KINDS.keys() - {"distinct"}), "sum", "count"]))
    takes_value = kinds.KINDS[kind].takes_value
    decimals = draw(st.sampled_from([None, 0, 2])) if kind in ("sum", "mean") else None
    default: Any = draw(st.sampled_from([0, -1])) if kind == "count" else draw(st.sampled_from([0.0, -1.0]))
    return Aggregate(
        kind, draw(st.sampled_from(["amount", "amount * 2"])) if takes_value else "", draw(WINDOWS), draw(WHERES),
        draw(DELAYS), kind != "since_last" and draw(st.booleans()), default, decimals,
    )  # fmt: skip


class Pair:
    """One view in both ways."""

    def __init__(self, declared: list[Aggregate], *, has_text_ids: bool = False) -> None:
        spec = spec_of(declared, has_text_ids=has_text_ids)
        self.declared = declared
        self.codec, self.in_numpy = codec_of(spec), codec_of(spec, NONE)
        assert self.codec.kernel_reason == ""
        assert self.in_numpy.kernel_reason

    def check(self, ids: list[int], rows: list[bytes | None], wall_ns: int, current: Events | None) -> ViewRows:
        """Assert that both give the same; return it."""
        found, expected = (each.unpack(ids, rows, wall_ns, None, current) for each in (self.codec, self.in_numpy))
        for place, aggregate in enumerate(self.declared):
            column, wanted = found.data[f"c{place}"], expected.data[f"c{place}"]
            if aggregate.kind == "stddev" or (aggregate.kind in ("sum", "mean") and aggregate.decimals is None):
                # The scale is that of what is added up: a sum may cancel to next to nothing.
                np.testing.assert_allclose(column, wanted, 1e-12, 1e-13 * AMOUNT_MAX, err_msg=str(aggregate))
            else:
                np.testing.assert_array_equal(column, wanted, str(aggregate))
        np.testing.assert_array_equal(found.provenance, expected.provenance)
        assert (found.degraded is None) == (expected.degraded is None)
        if found.degraded is not None:
            np.testing.assert_array_equal(found.degraded, expected.degraded)
        assert found.errors == expected.errors
        return found


@settings(deadline=None)
@given(data=st.data(), has_text_ids=st.booleans())
def test_windows_are_numpys_for_any_view_and_history(data: st.DataObject, has_text_ids: bool) -> None:
    """Any windows of any events, in tiles and apart, asked for at any time, late too: both ways give the same."""
    declared = data.draw(st.lists(aggregates(), min_size=1, max_size=8), label="aggregates")
    pair = Pair(declared, has_text_ids=has_text_ids)
    stored = states_of(pair.codec, ENTITIES, data.draw(BATCHES, label="batches"))
    asked = data.draw(st.lists(HAPPENED, min_size=1, max_size=6), label="asked")
    rows: list[bytes | None] = [stored[each.entity] if data.draw(st.integers(0, 9)) else None for each in asked]
    events = events_of(asked, has_text_ids=has_text_ids)
    current = data.draw(st.sampled_from([None, Events(events.times, None, events.field), events]), label="current")
    pair.check([each.entity for each in asked], rows, int(events.times[0]), current)


def test_longer_window_may_begin_later() -> None:
    """A window of 3,601 s has a hop of 61 s, one of an hour 60 s: at some times the longer one begins later."""
    pair = Pair([kinds.count(window=window) for window in ("1h", "3601s", "3602s")])
    stored = states_of(pair.codec, 1, [(0, [Happened(0, place * 10**9, place, 1.0) for place in range(300)])])
    times = [3_600 + place for place in range(200)]
    found = pair.check([0] * 200, stored * 200, 0, events_of([Happened(0, each * 10**9, 0, 1.0) for each in times]))
    assert np.any(found.data["c1"] < found.data["c0"])


@pytest.mark.parametrize("has_text_ids", [False, True])
@pytest.mark.parametrize(("asked", "count"), [(3, 0), (6, 1), (7, 2), (9, 2), (12, 3)])
def test_events_of_the_same_time_count_up_to_the_id_that_is_asked_for(
    has_text_ids: bool, asked: int, count: int
) -> None:
    """An event before it by id counts, itself and those behind it do not; without an id none does."""
    pair = Pair([kinds.count(window="1h"), kinds.count(window="1h", delay="10m")], has_text_ids=has_text_ids)
    stored = states_of(pair.codec, 1, [(0, [Happened(0, HOUR_NS, each, 1.0) for each in (9, 3, 6)])])
    current = events_of([Happened(0, HOUR_NS, asked, 1.0)], has_text_ids=has_text_ids)
    assert pair.check([0], [*stored], 0, current).data["c0"].tolist() == [count]
    delayed = Events(current.times + 600 * 10**9, current.ids, current.field)
    assert pair.check([0], [*stored], 0, delayed).data["c1"].tolist() == [count]
    without = Events(current.times, None, current.field)
    assert pair.check([0], [*stored], 0, without).data["c0"].tolist() == [0]


@pytest.mark.parametrize("kind", [kinds.first, kinds.last, kinds.min_, kinds.max_, kinds.mean, kinds.stddev])
def test_event_that_counts_itself_is_the_newest(kind: Any) -> None:
    """It is the last one, and the first one only where no other counts; elsewhere the order means nothing."""
    pair = Pair([kind("amount", window="1h", include_current=True), kind("amount", window="1h")])
    stored = states_of(pair.codec, 1, [(0, [Happened(0, 1, 1, 5.0), Happened(0, 2, 2, 3.0)])])
    asked = events_of([Happened(0, 10, 3, amount) for amount in (4.0, 1.0, 9.0, np.nan)])
    found = pair.check([0] * 4, stored * 4, 0, asked)
    if kind is kinds.first:
        assert found.data["c0"].tolist() == [5.0] * 4
    elif kind is kinds.last:
        assert found.data["c0"].tolist() == [4.0, 1.0, 9.0, 3.0]
    pair.check([0] * 4, [None] * 4, 0, asked)


@st.composite
def broken(draw: st.DrawFn, value: bytes, other: bytes) -> bytes:
    """Draw something else than a stored value."""
    match draw(st.sampled_from(["cut", "longer", "byte", "number", "other", "empty"])):
        case "cut":
            return value[: draw(st.integers(0, len(value) - 1))]
        case "longer":
            return value + draw(st.binary(min_size=1, max_size=30))
        case "byte":
            at = draw(st.integers(0, 15))
            return value[:at] + bytes([value[at] ^ draw(st.integers(1, 255))]) + value[at + 1 :]
        case "number":
            at = draw(st.sampled_from([32, 36, 44]))
            number = draw(st.sampled_from([0, 1, 2, 5, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]))
            return value[:at] + number.to_bytes(4, "little") + value[at + 4 :]
        case "other":
            return other
    return b""


@settings(deadline=None)
@given(data=st.data(), has_text_ids=st.booleans())
def test_broken_values_are_refused_and_leave_their_neighbours(data: st.DataObject, has_text_ids: bool) -> None:
    """Cut anywhere, another entity's, another schema's, counts that lie: refused by both ways, whatever is beside."""
    pair = Pair([kinds.count(window="1d"), kinds.sum_("amount", window="7d", decimals=2)], has_text_ids=has_text_ids)
    batches = data.draw(BATCHES, label="batches")
    stored = states_of(pair.codec, ENTITIES, batches)
    asked = [Happened(entity, SPAN_NS, 0, 1.0) for entity in range(ENTITIES)]
    current = events_of(asked, has_text_ids=has_text_ids)
    whole = pair.check(list(range(ENTITIES)), [*stored], 0, current)
    wrong = data.draw(broken(stored[1], stored[2]), label="broken")
    found = pair.check(list(range(ENTITIES)), [stored[0], wrong, stored[2]], 0, current)
    if wrong != stored[1]:
        assert found.provenance[1] == Provenance.DEFAULT
        assert found.data["c0"][1] == 0
    for name in ("c0", "c1"):
        assert found.data[name][[0, 2]].tolist() == whole.data[name][[0, 2]].tolist()


def test_read_before_the_horizon_is_told_as_stale() -> None:
    """An event before what is in tiles is answered, and said to be stale, in both ways."""
    pair = Pair([kinds.count(window="1h")])
    stored = states_of(pair.codec, 1, [(HOUR_NS, [Happened(0, HOUR_NS + 5, 1, 1.0)])])
    asked = events_of([Happened(0, HOUR_NS - 10**9, 9, 1.0), Happened(0, 2 * HOUR_NS, 9, 1.0)])
    found = pair.check([0, 0], [stored[0], stored[0]], 0, asked)
    assert found.provenance.tolist() == [Provenance.STALE, Provenance.FRESH]
    assert found.data["c0"].tolist() == [0, 1]


def test_sums_of_floats_are_numpys_to_twelve_digits() -> None:
    """Of values that do not cancel, in some thousand events and tiles."""
    pair = Pair([
        each("amount", window=window) for each in (kinds.sum_, kinds.mean, kinds.stddev) for window in ("1h", LIFETIME)
    ])  # fmt: skip
    draw = np.random.default_rng(0)
    happened = [Happened(0, place * 10**9, place, 1_000 + draw.random()) for place in range(4_000)]
    stored = states_of(pair.codec, 1, [(0, happened[:2_000]), (1_000 * 10**9, happened[2_000:])])
    asked = events_of([Happened(0, 4_000 * 10**9, 1, 0.0)])
    found, expected = (each.unpack([0], [*stored], 0, None, asked) for each in (pair.codec, pair.in_numpy))
    for place in range(4):
        np.testing.assert_allclose(found.data[f"c{place}"], expected.data[f"c{place}"], 1e-12)
    for place in (4, 5):  # NumPy's own, which merges tiles and events by their rounded means, is good to 1e-10 here
        np.testing.assert_allclose(found.data[f"c{place}"], expected.data[f"c{place}"], 1e-10)


def test_stddev_keeps_its_digits_where_values_are_large_and_alike() -> None:
    """A sum of squares would lose all of them."""
    codec = codec_of(spec_of([kinds.stddev("amount", window="1h")]))
    values = [1e9 + each for each in (1.0, 2.0, 4.0, 8.0)]
    happened = [Happened(0, place * 10**9, place, value) for place, value in enumerate(values)]
    stored = states_of(codec, 1, [(0, happened)])
    found = codec.unpack([0], [*stored], 0, None, events_of([Happened(0, 10**10, 9, 0.0)]))
    np.testing.assert_allclose(found.data["c0"], np.std([1.0, 2.0, 4.0, 8.0], ddof=1), 1e-12)


def test_arrays_that_do_not_fit_are_refused() -> None:
    """The library trusts its caller: fewer times, checks or ids than rows, or ids of another kind, never reach it."""
    codec = codec_of(spec_of([kinds.count(window="1h")]))
    kernel = codec._kernel
    assert kernel is not None
    times, ids = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for checks, now_ns, own in (
        ([1], times, ids), ([1, 2], times[:1], ids), ([1, 2], times, ids[:1]), ([1, 2], times.astype(np.int32), ids),
        ([1, 2], times, ids.astype(np.int32)), ([1, 2], times, np.array([b"a", b"b"])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"2 rows with|of 2 events"):
            kernel.merge(checks, [None, None], now_ns, own, None)


def test_arrays_that_do_not_lend_their_memory_are_copied() -> None:
    """A read-only one, and every second place of one."""
    pair = Pair([kinds.count(window="1h")])
    stored = states_of(pair.codec, 2, [(0, [Happened(0, 1, 1, 1.0), Happened(1, 1, 1, 1.0)])])
    asked = events_of([Happened(0, 10, 2, 1.0), Happened(0, -10, 2, 1.0)] * 2)
    times = asked.times[::2]
    assert not times.flags.carray
    ids = np.array([2, 2])
    ids.flags.writeable = False
    found = pair.check([0, 1], [*stored], 0, Events(times, ids, asked.field))
    assert found.data["c0"].tolist() == [1, 1]


class StrangeLane:
    """A lane that the library does not know."""

    fields = ("<u4",)


def test_view_with_a_lane_that_the_library_does_not_know_is_numpys() -> None:
    """The kernel says so when it is made; nothing is computed otherwise."""
    spec = spec_of([kinds.count(window="1h")])
    layout = codec_of(spec).states
    lane: Any = StrangeLane()
    layout.windows = WindowSet(spec.windows.windows, (LaneUse(lane, None, None),), spec.windows.features)
    with pytest.raises(OSError, match="StrangeLane"):
        WindowKernel(layout, [], open_library())


def test_library_of_another_version_is_refused(tmp_path: Path) -> None:
    """A library whose structs are not those that the caller has; a file that is another library; none."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "windows.c"
    text = LIBRARY.with_name("windows.c").read_text()
    source.write_text(text.replace("#define LAYOUT 2", "#define LAYOUT 9"))
    library = tmp_path / "libother.so"
    subprocess.run(["cc", "-std=c99", "-fPIC", "-shared", "-o", library, source, "-lm"], check=True)
    spec = spec_of([kinds.count(window="1h")])
    assert "another version of windows.c" in codec_of(spec, library).kernel_reason
    assert "was not compiled" in codec_of(spec, NONE).kernel_reason
    source.write_text("int nothing(void) { return 0; }\n")
    other = tmp_path / "libnothing.so"
    subprocess.run(["cc", "-fPIC", "-shared", "-o", other, source], check=True)
    assert "is another library" in codec_of(spec, other).kernel_reason
