"""The ids of a state's events: a value in which they are not whole is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_samples import Happened, codec_of, events_of, spec_of, states_of

from tailrace.features import aggregates as kinds
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.window_kernel import LIBRARY


def ids_of(value: bytes, codec: StreamCodec) -> int:
    """Return where the ids of a state begin: their lengths, then the texts."""
    tiles, events = (int.from_bytes(value[at : at + 4], "little") for at in (32, 36))
    return 48 + tiles * codec.states.tile_bytes + events * codec.states.event_bytes


@pytest.mark.parametrize("library", [LIBRARY, Path("no-such-library")])
def test_state_of_ids_that_are_not_whole_is_refused(library: Path) -> None:
    """Lengths that are not those of the texts, or numbers where texts are: an error, and nothing is read past them."""
    declared = [kinds.count(window="1h")]
    codec = codec_of(spec_of(declared, has_text_ids=True), library)
    (value,) = states_of(codec, 1, [(0, [Happened(0, 10**9, 1, 1.0), Happened(0, 10**9, 2, 1.0)])])
    at = ids_of(value, codec)
    asked = events_of([Happened(0, 10**9, 3, 1.0)], has_text_ids=True)
    assert codec.unpack([0], [value], 0, None, asked).data["c0"].tolist() == [2]
    lengths = value[:at] + b"\xff\xff\xff\xff" + value[at + 4 :]
    cut = value[:44] + (3).to_bytes(4, "little") + value[48 : at + 3]
    numbers = codec_of(spec_of(declared), library)
    (other,) = states_of(numbers, 1, [(0, [Happened(0, 10**9, 1, 1.0)])])
    found = numbers.unpack([0], [value], 0, None, events_of([Happened(0, 10**9, 3, 1.0)]))
    assert found.errors == 1
    for wrong in (lengths, cut, value[:8] + other[8:]):
        found = codec.unpack([0], [wrong], 0, None, asked)
        assert found.errors == 1
        assert found.data["c0"].tolist() == [0]
