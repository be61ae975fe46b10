"""Layer 1 of a batch: the requests of all calls in one sequence, the rows they make, and their columns."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from tailrace.batch import Batch
from tailrace.request.columns import RequestColumns
from tailrace.request.rows import RowCount

_requests_of = attrgetter("requests")


class RequestStep:
    """Gathers the requests of a batch.

    columns: the class made for the request type. expanded: the list-valued field that makes the rows, if any.
    """

    def __init__(self, columns: type[RequestColumns], expanded: str | None, rows: RowCount) -> None:
        self.rows = rows
        self._columns = columns
        self._read_list = attrgetter(expanded) if expanded is not None else None

    def run(self, batch: Batch) -> None:
        """Fill `requests`, `offsets`, `rows` and `request`; with a list-valued key `row_request`, `row_bounds` too."""
        requests: list[Any] = list(map(_requests_of, batch.calls))
        if list in map(type, requests):
            flat: list[Any] = []
            offsets = [0]
            for item in requests:
                flat.extend(item if type(item) is list else (item,))
                offsets.append(len(flat))
            requests, batch.offsets = flat, offsets
        batch.requests = requests
        if self._read_list is None:
            batch.rows = len(requests)
        else:
            counts = np.fromiter(map(len, map(self._read_list, requests)), np.intp, len(requests))
            batch.row_bounds = np.concatenate(([0], counts.cumsum()))
            batch.row_request = np.repeat(np.arange(len(requests)), counts)
            batch.rows = int(batch.row_bounds[-1])
        batch.request = self._columns(requests, batch.row_request)
