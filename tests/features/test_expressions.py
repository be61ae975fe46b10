"""Expressions over the fields of an event: what they give, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tailrace.features.expressions import DEPTH_MAX, LENGTH_MAX, parse_expression

FIELDS: dict[str, Any] = {
    "amount": np.array([1.5, -2.0, 0.0, 100.0]),
    "rate": np.array([2, 0, 3, -1]),
    "channel": np.array(["web", "app", "", "web"], object),
    "known": np.array([True, False, True, False]),
    "maybe": np.array([np.nan, 0.0, 2.0, np.nan]),
}


def column(text: str) -> list[Any]:
    """Return the values of an expression."""
    found: list[Any] = parse_expression(text).column(FIELDS.__getitem__, 4).tolist()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amount", [1.5, -2.0, 0.0, 100.0]),
        ("amount * rate + 1", [4.0, 1.0, 1.0, -99.0]),
        ("-amount - 0.5", [-2.0, 1.5, -0.5, -100.5]),
        ("rate % 2", [0, 0, 1, 1]),
        ("amount > 0", [True, False, False, True]),
        ("-2 <= amount < 1.5", [False, True, True, False]),
        ("channel == 'web'", [True, False, False, True]),
        ("channel != 'web' and amount >= 0", [False, False, True, False]),
        ("amount > 50 or not known", [False, True, False, True]),
        ("channel in ('web', '')", [True, False, True, True]),
        ("channel not in ['web']", [False, True, True, False]),
        ("rate in {2, 3}", [True, False, True, False]),
        ("known", [True, False, True, False]),
        ("maybe and rate", [False, False, True, False]),
        ("rate and known and maybe", [False, False, True, False]),
        ("maybe or known", [True, False, True, False]),
        ("not maybe", [True, True, False, True]),
        ("not not maybe", [False, False, True, False]),
    ],
)
def test_expression_is_computed_over_columns(text: str, expected: list[Any]) -> None:
    """Each operator that is allowed gives, for every event, what Python gives for one."""
    assert column(text) == expected


def test_division_by_zero_is_no_number() -> None:
    """It gives what no aggregate counts, and no warning."""
    assert np.isinf(column("amount / rate")[1])
    assert np.isnan(column("(amount - amount) / (rate - rate)")).all()
    assert np.isnan(column("amount % rate")).tolist() == [False, True, False, False]
    assert np.isnan(column("rate % rate")).tolist() == [False, True, False, False]
    assert np.isnan(column("rate % 0")).all()
    assert column("rate % (rate * 2 + 1)") == [2.0, 0.0, 3.0, 0.0]


def test_expression_has_one_spelling() -> None:
    """Blanks and needless brackets change nothing, so that a state is not begun anew for them."""
    one, other = parse_expression("amount>3 and  channel=='a'"), parse_expression(' (amount > 3) and (channel == "a") ')
    assert one == other
    assert hash(one) == hash(other)
    assert one.fields == ("amount", "channel")
    assert one != parse_expression("amount > 4 and channel == 'a'")


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "amount >", "amount; rate", "x = 1", "len(channel)", "channel.upper()", "amount.real", "amount[0]",
        "__import__('os').system('true')", "(lambda: 1)()", "[amount for amount in rate]", "amount ** 9", "amount // 2",
        "amount if known else rate", "amount is None", "channel in known", "channel in (amount, 'a')", "None", "...",
        "b'a' == channel", "1 + 1", "f'{amount}'", "amount := 3", "~rate", "rate << 99", "1j * amount", "amount\0",
    ],
)  # fmt: skip
def test_expression_refuses_all_else(text: str) -> None:
    """What could call, look inside or run for long is refused when declared, and so is what reads no field."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_expression(text)


@pytest.mark.parametrize("text", [None, 3, lambda event: event.amount > 3])
def test_expression_is_a_text(text: Any) -> None:
    """A function has no identity that outlives a restart."""
    with pytest.raises(ValueError, match="is no expression"):
        parse_expression(text)


def test_expression_is_bounded() -> None:
    """Neither its length nor its depth can stop the process."""
    with pytest.raises(ValueError, match=f"over {LENGTH_MAX}"):
        parse_expression("amount + " * LENGTH_MAX + "1")
    with pytest.raises(ValueError, match=f"over {DEPTH_MAX} deep"):
        parse_expression("-" * (DEPTH_MAX + 10) + "amount")
    with pytest.raises(ValueError, match=r"\S"):
        parse_expression("-" * (LENGTH_MAX - 10) + "amount")
    assert len(column("-" * (DEPTH_MAX - 10) + "amount")) == 4
