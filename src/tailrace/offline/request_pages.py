"""Labelled requests, read page by page: a column for each field of the request, and whatever else goes along."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SourceError
from tailrace.features.events import event_times
from tailrace.features.keys import CompositeFormat
from tailrace.features.view_spec import Column, Entity
from tailrace.offline.arrow_columns import arrow_type, cast_field, to_array
from tailrace.offline.page_entities import PageEntities
from tailrace.offline.request_tables import RequestTables
from tailrace.request.schema import FieldSpec, Request, field_specs

PAGE_ROWS: Final = 1 << 20
"""Requests that are computed together, at most."""


@dataclass(frozen=True, slots=True)
class RequestPage:
    """Some requests. rows: how many. columns: has an array for each field, (rows,). times_ns: when each happened.

    table: the columns as Arrow, those that are no field of the request behind the others. left_out: requests before
    this page and in it that cannot be requests.
    """

    rows: int
    columns: Any
    times_ns: NDArray[np.int64]
    table: Any
    left_out: int
    _entities: dict[Any, PageEntities] = field(default_factory=dict)

    def entities(self, entity: Entity, given: Mapping[Column, KeyColumn]) -> PageEntities:
        """Return the entities that the rows ask for. given: the columns of views that are in keys."""
        if entity.key not in self._entities:
            found = [given[part] if isinstance(part, Column) else self._key_column(part) for part in entity.parts]
            columns = [each.values for each in found]
            ids = _composite(columns) if entity.is_composite else columns[0]
            known = [each.is_known for each in found if each.is_known is not None]
            asks = np.logical_and.reduce(known) if known else None
            self._entities[entity.key] = PageEntities(ids, self.times_ns, asks)
        return self._entities[entity.key]

    def _key_column(self, name: str) -> KeyColumn:
        return KeyColumn(getattr(self.columns, name), None)


class KeyColumn(NamedTuple):
    """A part of a key. values: of each row. is_known: in which rows it is one, bool; None for every one."""

    values: NDArray[Any]
    is_known: NDArray[np.bool_] | None


def _composite(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the ids that several columns make, as objects."""
    format_ = CompositeFormat([int if column.dtype.kind in "iu" else str for column in columns])
    return np.array(format_.ids(column.tolist() for column in columns), object)


class RequestPages:
    """Reads labelled requests as the columns that serving has.

    requests: a pyarrow table, a pandas DataFrame, or the path of a Parquet or CSV file. time: the field that says when
    a request happened. expanded: the list-valued field that makes the rows, if any; where its column holds lists, each
    of their items is a row, and a further column of lists as long goes along item by item. A field that has a default
    may be missing. Raises SourceError for what cannot be read, and a column that cannot be its field.
    """

    def __init__(
        self,
        requests: Any,
        request_type: type[Request],
        time: str,
        expanded: str | None,
        *,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        self._specs = field_specs(request_type)
        self._tables = RequestTables(requests, self._specs)
        self._time = time
        self._expanded = expanded
        self._page_rows = page_rows
        self._missing = self._missing_fields(request_type)

    @property
    def total(self) -> int:
        """How many requests there are; 0 where that is not known beforehand."""
        return self._tables.total

    @property
    def where(self) -> str:
        """What the requests are called in an error."""
        return self._tables.where

    @property
    def carried(self) -> list[str]:
        """The columns that are no field of the request."""
        return [name for name in self._tables.names if name not in self._specs]

    def pages(self) -> Iterator[RequestPage]:
        """Give the requests in order."""
        left_out = 0
        for table in self._tables.pages(self._page_rows):
            for name, column in self._missing.items():
                table = table.append_column(name, column.repeat(table.num_rows))  # noqa: PLW2901
            table = self._expand(table)  # noqa: PLW2901
            cast = [cast_field(table[name], name, spec, self._tables.where) if not self._is_list(name) else table[name]
                    for name, spec in self._specs.items()]  # fmt: skip
            names = [*self._specs, *self.carried]
            table = _table([*cast, *(table[name] for name in self.carried)], names)  # noqa: PLW2901
            whole = self._whole(table)
            if whole is not None:
                left_out += table.num_rows - int(whole.sum())
                table = table.filter(_mask(whole))  # noqa: PLW2901
            columns = _Columns(table, self._specs)
            times_ns = event_times(getattr(columns, self._time))
            yield RequestPage(table.num_rows, columns, times_ns, table, left_out)

    def _is_list(self, name: str) -> bool:
        """Return whether a field is a list in each row."""
        return self._specs[name].many and name != self._expanded

    def _missing_fields(self, request_type: type[Request]) -> Mapping[str, _Constant]:
        """Return what stands for the fields that have no column; an error for one without a default."""
        known, missing = self._tables.names, {}
        for each in msgspec.structs.fields(request_type):
            if each.name in known:
                continue
            if each.required:
                close = difflib.get_close_matches(each.name, known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, known))}"
                next_step = f"{hint} Name the columns as {request_type.__name__} names its fields"
                raise SourceError(
                    f"the requests have no column {each.name!r}", where=self._tables.where, next=next_step
                )
            default = each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
            missing[each.name] = _Constant(msgspec.to_builtins(default), self._specs[each.name])
        return missing

    def _expand(self, table: Any) -> Any:
        """Return a row for each item of the list-valued key."""
        import pyarrow.compute as pc

        if self._expanded is None or not _is_list(table[self._expanded].type):
            return table
        lists = table[self._expanded]
        parents, lengths = pc.list_parent_indices(lists), pc.list_value_length(lists)
        vectors = {name for name, spec in self._specs.items() if spec.width}  # one may be as long as its row's list
        columns = [
            pc.list_flatten(column)
            if _is_list(column.type) and name not in vectors and pc.list_value_length(column).equals(lengths)
            else column.take(parents)
            for name, column in zip(table.column_names, table.columns, strict=True)
        ]
        return _table(columns, table.column_names)

    def _whole(self, table: Any) -> NDArray[np.bool_] | None:
        """Return which rows have a value for every field that needs one; None where all have."""
        whole = None
        for name, spec in self._specs.items():
            if not spec.nullable and table[name].null_count:
                valid = np.asarray(table[name].is_valid().to_numpy())
                whole = valid if whole is None else whole & valid
        return whole


class _Columns:
    """The fields of a page: `columns.amount` is an array, made when first asked for."""

    def __init__(self, table: Any, specs: Mapping[str, FieldSpec]) -> None:
        self._table = table
        self._specs = specs

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_") or name not in self._specs:
            raise AttributeError(f"the request has no field {name!r}")
        column = self.__dict__[name] = to_array(self._table[name], self._specs[name])
        return column


class _Constant:
    """The column of a field that is missing: its default in every row."""

    def __init__(self, value: Any, spec: FieldSpec) -> None:
        self._value = value
        self._spec = spec

    def repeat(self, rows: int) -> Any:
        """Return the column."""
        import pyarrow as pa

        is_number = isinstance(self._value, int | float) and not self._spec.many
        kind = arrow_type(self._spec) if is_number or self._spec.width else None
        return pa.array([self._value] * rows, kind)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _mask(whole: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.array(whole)


def _table(columns: list[Any], names: list[str]) -> Any:
    import pyarrow as pa

    return pa.table(columns, names=names)
