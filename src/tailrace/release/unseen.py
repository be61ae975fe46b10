"""Made-up rows of categories that training had not seen, and of nulls: serving meets them, the data does not."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.manifest import Vocabulary
from tailrace.release.encoders import above_all
from tailrace.release.original import Original
from tailrace.release.rows import Rows

TEXT: Final = "not seen in training"


def unseen_rows(original: Original, rows: Rows) -> list[tuple[str, Rows]]:
    """Return single rows, each with what is made up in it in words: an unseen category in one feature, a null text."""
    first, found = rows.take(np.zeros(1, np.intp)), []
    for name, vocabulary in original.vocabularies.items():
        column = rows.columns[name]
        for what, value in _values(column, vocabulary, original.nulls.get(name, "")):
            cell = np.array([value], object if column.dtype.kind == "O" else column.dtype)
            found.append((f"{what} in {name}", Rows({**first.columns, name: cell})))
    return found


def _values(column: NDArray[Any], vocabulary: Vocabulary, null: Any) -> list[tuple[str, Any]]:
    """Return the values to try in a column, each with its name."""
    if column.dtype.kind == "O":
        text, known = TEXT, {*vocabulary.categories, *column.tolist()}
        while text in known:
            text += "?"
        # Serving has "" for a null: where training had both, they are refused elsewhere.
        nulls = [] if vocabulary.null and "" in known else [("a null", null)]
        return [("an unseen category", text), *nulls]
    numbers = np.array([each for each in vocabulary.categories if not isinstance(each, str)], np.float64)
    if column.dtype.kind == "f":
        return [("an unseen category", above_all(np.concatenate([numbers, column.astype(np.float64)])))]
    if column.dtype.kind not in "iu":
        return []
    value = int(max(column.max(), numbers.max(initial=0))) + 1
    return [("an unseen category", value)] if value <= np.iinfo(column.dtype).max else []
