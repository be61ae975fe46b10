"""How many rows a call makes, and how many it may."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

import msgspec

from tailrace.errors import InvalidRequestError, ServingError
from tailrace.request.schema import Request

ARRAY_MAX: Final = 1_000
"""Requests in one array, unless the server's settings say otherwise."""


class RowCount:
    """Counts the rows of a call: one a request, or one an id where a list-valued key expands a request to many.

    expanded: that field, or None. rows_max: of one request. array_max: requests of one call.
    """

    def __init__(self, request_type: type[Request], expanded: str | None, *, rows_max: int, array_max: int) -> None:
        self.one_row = expanded is None
        """Whether a request is a row."""
        self._read_list = attrgetter(expanded) if expanded is not None else None
        names = {field.name: field.encode_name for field in msgspec.structs.fields(request_type)}
        self._list_name = names.get(expanded or "", "")
        self._request_rows_max = rows_max
        self._call_rows_max = max(rows_max, array_max)

    def count(self, requests: Any) -> int | ServingError:
        """Return how many rows a request, or a list of them, makes; an error where they are over a limit."""
        many = type(requests) is list
        if self._read_list is None:
            return len(requests) if many else 1
        lengths = [len(self._read_list(request)) for request in (requests if many else (requests,))]
        if max(lengths, default=0) > self._request_rows_max:
            place = f"$[{lengths.index(max(lengths))}]" if many else "$"
            what = f"Expected `array` of length <= {self._request_rows_max}"
            return InvalidRequestError(what, where=f"{place}.{self._list_name}")
        rows = sum(lengths)
        if rows > self._call_rows_max:
            what = f"Expected at most {self._call_rows_max} rows in one call, got {rows}"
            return InvalidRequestError(what, where="$", next="send fewer a call")
        return rows
