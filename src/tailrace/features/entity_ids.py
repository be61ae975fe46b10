"""The entity ids of a batch: which rows its views are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol

from tailrace.batch import Batch
from tailrace.features.keys import CompositeFormat


class IdReader(Protocol):
    """Reads the ids of one key: one a request, or one a row where the key has the list that makes the rows."""

    def read(self, batch: Batch) -> list[Any]:
        """Return the ids."""
        ...


class FieldIds:
    """Reads ids from one field. expands: whether it is the list that makes the rows."""

    def __init__(self, field: str, *, expands: bool) -> None:
        self._read = attrgetter(field)
        self._expands = expands

    def read(self, batch: Batch) -> list[Any]:
        """Return the ids."""
        read = self._read
        if self._expands:
            return [item for request in batch.requests for item in read(request)]
        return list(map(read, batch.requests))


class CompositeIds:
    """Makes ids of several fields.

    types: of each field, in order. expanded: the list among them that makes the rows; the others are repeated for each
    of its items. None where none of them is.
    """

    def __init__(self, types: Mapping[str, type], expanded: str | None) -> None:
        self._format = CompositeFormat(types.values())
        self._reads = [attrgetter(name) for name in types]
        self._list = None if expanded is None else list(types).index(expanded)

    def read(self, batch: Batch) -> list[Any]:
        """Return the ids, each a text."""
        columns = [map(read, batch.requests) for read in self._reads]
        if self._list is None:
            return self._format.ids(columns)
        assert batch.row_request is not None
        rows = batch.row_request.tolist()
        return self._format.ids(
            chain.from_iterable(column) if place == self._list else map(list(column).__getitem__, rows)
            for place, column in enumerate(columns)
        )
