"""The requests of logged lines as columns: a field of the request is a column, a line a row."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tailrace.offline.arrow_columns import cast_field
from tailrace.request.schema import FieldSpec, Request, field_specs

_LISTS: Final = {
    "f": pa.list_(pa.float64()), "i": pa.list_(pa.int64()), "b": pa.list_(pa.bool_()), "O": pa.list_(pa.string()),
}  # fmt: skip
"""The columns of fields that are lists, by the kind of their items."""


class Found(NamedTuple):
    """Fields of requests, by name, and which lines have a request with all that it must have."""

    columns: dict[str, Any]
    is_whole: NDArray[np.bool_]


class RequestColumns:
    """Reads the requests of a type. expanded: the list-valued field whose items are lines. besides: left out."""

    def __init__(self, request_type: type[Request], expanded: str | None, besides: Collection[str]) -> None:
        self._specs = {name: spec for name, spec in field_specs(request_type).items() if name not in besides}
        self._defaults = {
            each.name: msgspec.to_builtins(each.default if each.default_factory is msgspec.NODEFAULT
                                           else each.default_factory())
            for each in msgspec.structs.fields(request_type) if not each.required
        }  # fmt: skip
        self._expanded = None if expanded is None else field_specs(request_type)[expanded].name
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def columns(self, lines: pa.Table) -> Found:
        """Return the fields of a page of lines, each of which follows the first of its request."""
        texts = lines["request"].to_pylist()
        rows = pc.fill_null(lines["row"], 0).to_numpy()
        owners = np.cumsum(rows == 0) - 1
        requests = [self._read(texts[place]) for place in np.flatnonzero(rows == 0).tolist()]
        is_whole = np.array([request is not None for request in requests], np.bool_)[owners]
        known = [request or {} for request in requests]
        columns = {}
        for name, spec in self._specs.items():
            values = self._values(known, name, spec, owners, rows)
            is_list = spec.many and spec.name != self._expanded
            column = pa.chunked_array([_array(values, _LISTS.get(spec.dtype.kind) if is_list else None)])
            columns[name] = column if is_list else cast_field(column, name, spec, "the log's requests")
            if not spec.nullable:
                is_whole &= np.asarray(columns[name].is_valid().to_numpy(), np.bool_)
        return Found(columns, is_whole)

    def _read(self, text: str | None) -> dict[str, Any] | None:
        try:
            return None if text is None else self._decode(text)
        except msgspec.DecodeError:
            return None

    def _values(
        self, requests: list[dict[str, Any]], name: str, spec: FieldSpec, owners: NDArray[Any], rows: NDArray[Any]
    ) -> list[Any]:
        """Return a value for each line: an item of the list that makes the lines, and of any other as long as that."""
        default = self._defaults.get(name)
        found = [request.get(spec.name, default) for request in requests]
        by_item = self._expanded is not None and spec.many and all(
            isinstance(each, list) and len(each) == len(request.get(self._expanded) or ())
            for each, request in zip(found, requests, strict=True)
        )  # fmt: skip
        if not by_item:
            return [found[owner] for owner in owners.tolist()]
        lines = zip(owners.tolist(), rows.tolist(), strict=True)
        return [found[owner][row] if row < len(found[owner]) else None for owner, row in lines]


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return values as a column of a type, or of their own; objects, and what has no one type, as JSON."""
    try:
        found = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        found = None
    if found is None or pa.types.is_struct(found.type):
        return pa.array([None if each is None else json.dumps(each) for each in values], pa.string())
    return found.cast(pa.string()) if pa.types.is_null(found.type) else found
