"""Money of requests, summed exactly: a float is the shortest decimal that is it, as JSON writes it."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from math import isfinite
from typing import Any, Final

from tailrace.errors import SetupError
from tailrace.pipeline import Pipeline
from tailrace.request.schema import FieldSpec, field_specs

AMOUNT: Final = "amount"
ZERO: Final = Decimal(0)
_DIGITS: Final = 700
"""From the largest float to the smallest: no sum of them is rounded."""


def amount_field(pipelines: Iterable[Pipeline], asked: str | None) -> str | None:
    """Return the field that has a request's money: the one asked for, else a number called `amount`, else None.

    Raises SetupError for a field that is no number of both pipelines, or stands for several rows.
    """
    specs = [field_specs(pipeline.request).get(asked or AMOUNT) for pipeline in pipelines]
    if all(spec is not None and _is_number(spec) for spec in specs):
        return asked or AMOUNT
    if asked is not None:
        raise SetupError(f"the request has no number {asked!r}", where="--amount",
                         next="name a field that is one number, such as --amount price")  # fmt: skip
    return None


def _is_number(spec: FieldSpec) -> bool:
    return spec.dtype.kind in "if" and not spec.many and not spec.width


def exact(value: Any) -> Decimal:
    """Return a number as it is written; 0 for one that is missing or no number."""
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return ZERO
    return Decimal(str(value))


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    with localcontext(prec=_DIGITS):
        return sum(amounts, ZERO)
