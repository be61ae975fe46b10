"""Readers: each takes one thing out of a batch. They are made when a pipeline is compiled (compile/binding.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Provenance


class Reader(Protocol):
    """Reads a column of a batch, shape (rows,); a block of them, (rows, columns); or an object that has columns."""

    def read(self, batch: Batch) -> Any:
        """Return what it reads; nobody may write to it."""
        ...


class ReadRequest:
    """Reads the columns of the request."""

    def read(self, batch: Batch) -> Any:
        """Return the object that has them."""
        return batch.request


class ReadField:
    """Reads one field of the request."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return its column."""
        return getattr(batch.request, self._name)  # type: ignore[no-any-return]


class ReadView:
    """Reads the columns of a view. view: its index."""

    def __init__(self, view: int) -> None:
        self._view = view

    def read(self, batch: Batch) -> Any:
        """Return the object that has them."""
        return batch.views[self._view]


class ReadViewColumn:
    """Reads one column of a view. view: its index."""

    def __init__(self, view: int, name: str) -> None:
        self._view = view
        self._name = name

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return the column."""
        return getattr(batch.views[self._view], self._name)  # type: ignore[no-any-return]


class ReadViewBlock:
    """Reads columns that are side by side in a view's rows, without a copy where the batch's rows are the view's.

    field: of the rows' dtype. part: of its columns, all for None. repeats: a row of the view is used for every row that
    its request makes.
    """

    def __init__(self, view: int, field: str, part: slice | None, *, repeats: bool) -> None:
        self._view = view
        self._field = field
        self._part = part
        self._repeats = repeats

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return the block, (rows, columns)."""
        block: NDArray[Any] = batch.view_rows[self._view].data[self._field]
        if self._part is not None:
            block = block[:, self._part]
        return block[batch.row_request] if self._repeats else block


class ReadUnknown:
    """Reads which rows' entities a view does not know: the store has answered, and only the defaults stand.

    view: its index. repeats: a row of the view is used for every row that its request makes.
    """

    def __init__(self, view: int, *, repeats: bool) -> None:
        self._view = view
        self._repeats = repeats

    def read(self, batch: Batch) -> NDArray[np.bool_]:
        """Return a bool for each row."""
        provenance: NDArray[np.uint8] = batch.view_rows[self._view].provenance
        unknown: NDArray[np.bool_] = provenance == np.uint8(Provenance.DEFAULT)
        return unknown[batch.row_request] if self._repeats else unknown


class ReadOnDemand:
    """Reads one on-demand feature."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return its column."""
        return batch.on_demand[self._name]


class ReadScore:
    """Reads the scores."""

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return them, (rows,)."""
        return batch.scores


class ReadDecision:
    """Reads the decisions so far, as labels. labels: of their indexes."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = np.array(labels, dtype=object)

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return a label for each row."""
        labels: NDArray[Any] = self._labels[batch.decisions]
        labels.flags.writeable = False  # a rule decides by what it returns: what it wrote here would be lost
        return labels


class ReadVariant:
    """Reads which variant each row got. splits: each with its variants, from the outermost in."""

    def __init__(self, splits: Sequence[tuple[str, Sequence[str]]]) -> None:
        # The last is for the rows that did not come to a split: their place is -1.
        self._labels = {name: np.array([*labels, ""], dtype=object) for name, labels in splits}

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return a text for each row; where a row came to several splits, its variants joined by a slash."""
        found, nowhere = batch.branches or {}, np.full(batch.rows, -1)
        columns = [labels[found.get(name, nowhere)] for name, labels in self._labels.items()]
        if len(columns) == 1:
            return columns[0]
        texts = ["/".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
        return np.array(texts, dtype=object)


class ReadExplanations:
    """Reads what the scores are made of."""

    def read(self, batch: Batch) -> list[dict[str, float] | None]:
        """Return the contributions of each row, None where they are not asked for or not told."""
        return batch.explanations if batch.explanations is not None else [None] * batch.rows


class ReadUnexplained:
    """Reads why scores are not explained."""

    def read(self, batch: Batch) -> list[str]:
        """Return a text for each row, empty where it is explained, or nobody asks."""
        return batch.unexplained if batch.unexplained is not None else [""] * batch.rows


class ReadReasons:
    """Reads the reason codes of each row."""

    def read(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return a tuple for each row."""
        return batch.reasons if batch.reasons is not None else [()] * batch.rows


class ReadEmbedding:
    """Reads the vector of each row, in the place of scores. dtype: "<f4" or "<f2"; is_packed: its bytes, not a list."""

    def __init__(self, dtype: str, *, is_packed: bool) -> None:
        self._dtype = np.dtype(dtype)
        self._max = float(np.finfo(self._dtype).max)
        self._is_packed = is_packed

    def read(self, batch: Batch) -> Any:
        """Return an array, (rows, width), or the little-endian bytes of each row; beyond float16 is its largest."""
        vectors = np.clip(batch.scores, -self._max, self._max).astype(self._dtype)
        if not self._is_packed:
            return vectors
        content, size = vectors.tobytes(), vectors.shape[1] * self._dtype.itemsize
        return [content[begin : begin + size] for begin in range(0, len(content), size)]


class ReadProbabilities:
    """Reads the probability of every class; of a model with one score, that."""

    def read(self, batch: Batch) -> NDArray[Any]:
        """Return them, (rows, classes) or (rows,)."""
        return batch.probabilities if batch.probabilities is not None else batch.scores
