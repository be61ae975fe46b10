"""An explanation in a terminal: its figures as a person reads them."""

from __future__ import annotations

import struct

import pytest

from tailrace.cli.explanation_text import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (350.0, "350"),
        (120_000.0, "120000"),
        (16_777_216.0, "16777216"),
        (123_456_789.125, "123456789.125"),
        (struct.unpack("f", struct.pack("f", 0.1))[0], "0.1"),
        (2.719489089975628, "2.719489089975628"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
        (None, "none"),
        ([1.0, 2.5, 3.0, 4.0, 5.0], "[1, 2.5, 3, … 5 in all]"),
    ],
)
def test_number_is_shown_as_it_is_written(value: object, text: str) -> None:
    """An amount of 350 is 350 and not 3.5e+02; a number of 32 bits has the fewest digits that tell it from others."""
    assert shown(value) == text
