"""What became of requests, where that is known: of each line, or in a file by id."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, Final

from tailrace.errors import SourceError
from tailrace.offline.request_tables import RequestTables

OUTCOMES_MAX: Final = 20_000_000
"""Of a file; they are held in memory, about 100 bytes each."""
PAGE_ROWS: Final = 1 << 16
POSITIVE: Final = frozenset({"1", "true", "yes"})
NEGATIVE: Final = frozenset({"0", "false", "no"})


def outcome_text(value: Any) -> str | None:
    """Return an outcome as a text; None where it is not known. True, 1 and 1.0 are one outcome."""
    if value is None or value == "" or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, bool | int | float):
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value).strip()


def id_text(value: Any) -> str:
    """Return the id of a request as a text. A column of whole numbers with a gap is read as floats: 17.0 is 17."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_right(before: int, after: int, labels: Sequence[str], outcome: str | None) -> bool | None:
    """Return whether a decision changed for the better: `after` fits the outcome, `before` does not.

    before, after: indexes into the labels, the higher the likelier the positive outcome: a positive one (1, true, yes)
    is met by the higher, a negative one (0, false, no) by the lower. An outcome that is a label is met by that label.
    None where the outcome is unknown, or neither decision is it.
    """
    if outcome is None:
        return None
    if outcome in labels:
        told = labels.index(outcome)
        return after == told if told in {before, after} else None
    if (word := outcome.lower()) in POSITIVE:
        return after > before
    return after < before if word in NEGATIVE else None


def read_outcomes(path: Path, id_field: str, label: str | None) -> dict[str, str]:
    """Return the outcomes of a Parquet or CSV file by the id of their requests, as text.

    label: the column; None for the only one beside the id. Raises SourceError for a file or column that is not there.
    """
    tables = RequestTables(path, {})
    others = [name for name in tables.names if name != id_field]
    if id_field not in tables.names:
        raise SourceError(f"it has no column {id_field!r}, the id of a request", where=str(path),
                          next=f"it has {', '.join(tables.names)}; name another with --id")  # fmt: skip
    if label is None and len(others) != 1:
        raise SourceError(f"which of {len(others)} columns is the outcome is not clear", where=str(path),
                          next=f"give --label: one of {', '.join(others) or 'none'}")  # fmt: skip
    column = label or others[0]
    if column not in others:
        raise SourceError(f"it has no column {column!r}", where=str(path), next=f"it has {', '.join(others)}")
    found: dict[str, str] = {}
    for table in tables.pages(PAGE_ROWS):
        pairs = zip(table[id_field].to_pylist(), table[column].to_pylist(), strict=True)
        found |= {
            id_text(key): text for key, value in pairs
            if key is not None and (text := outcome_text(value)) is not None
        }  # fmt: skip
        if len(found) > OUTCOMES_MAX:
            raise SourceError(f"it has more than {OUTCOMES_MAX:,} outcomes", where=str(path),
                              next="give those of the requests that are replayed")  # fmt: skip
    return found
