"""The columns of a record batch as Python values, at once and strictly: what JSON could not say is refused.

Numbers without nulls come through NumPy, 15 ns each; all else through pyarrow. What a few bytes can stand for many
values with (a list of empty structs, a dictionary of long texts) is counted before it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tailrace.errors import InvalidRequestError

ELEMENTS_MAX: Final = 1 << 18
"""Within lists, structs and maps of one stream, with what they hold in turn: 40 ms at most, as JSON's longest body."""
PARTS_OF_ELEMENT: Final = 5
"""What a list, a map, a struct, a time or a decimal counts for: it takes so much longer than a number does."""


class ColumnValues:
    """Reads the columns of one stream. texts_max: bytes that texts taken from dictionaries have together.

    is_boundless: whether a number was among them that is not finite.
    """

    def __init__(self, texts_max: int) -> None:
        self.is_boundless = False
        self._texts_left = texts_max
        self._elements_left = ELEMENTS_MAX

    def of(self, column: Any, name: str) -> list[Any]:
        """Return a value for each row. name: of the column, for what is said of it. Raises InvalidRequestError."""
        self._count_elements(column, name)
        return self._values(column, name)

    def _values(self, column: Any, name: str) -> list[Any]:  # noqa: PLR0911 - one case a type
        import pyarrow as pa

        kind = column.type
        types = pa.types
        if isinstance(kind, pa.BaseExtensionType):
            return self._values(column.storage, name)
        if types.is_integer(kind) or types.is_floating(kind):
            return self._numbers(column, is_float=types.is_floating(kind))
        if types.is_temporal(kind) and not types.is_time(kind):
            return _times(column)
        if types.is_dictionary(kind):
            return self._looked_up(column, name)
        if types.is_list(kind) or types.is_large_list(kind):
            return self._lists(column, name)
        if types.is_fixed_size_list(kind):
            begins = range(column.offset * kind.list_size, (column.offset + len(column) + 1) * kind.list_size,
                           kind.list_size) if kind.list_size else [0] * (len(column) + 1)  # fmt: skip
            return _cut(self._values(column.values, name), begins, column)
        if types.is_struct(kind):
            return self._structs(column, name)
        if types.is_map(kind):
            return self._maps(column, name)
        if not (types.is_primitive(kind) or types.is_null(kind) or types.is_decimal(kind) or _is_text(kind)):
            raise InvalidRequestError(f"a column of type {kind} is not taken", where=f"$[0].{name}")
        return list(column.to_pylist())

    def _numbers(self, column: Any, *, is_float: bool) -> list[Any]:
        if column.null_count:
            found = list(column.to_pylist())
            numbers = [value for value in found if value is not None]
            self.is_boundless |= is_float and not bool(np.isfinite(numbers).all())
            return found
        array = column.to_numpy()
        self.is_boundless |= is_float and not bool(np.isfinite(array).all())
        values: list[Any] = array.tolist()
        return values

    def _looked_up(self, column: Any, name: str) -> list[Any]:
        """Return the values of a column that keeps each once, and says of each row which it is."""
        import pyarrow as pa

        kind = column.type.value_type
        if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
            raise InvalidRequestError(f"a dictionary of {kind} is not taken", where=f"$[0].{name}")
        values = self._values(column.dictionary, name)
        places = column.indices.to_pylist()
        found = [None if place is None else values[place] for place in places]
        if _is_text(kind):
            self._texts_left -= sum(len(value) for value in found if value is not None)
            if self._texts_left < 0:
                raise InvalidRequestError("its texts are over the limit of a body once each row has its own",
                                          where=f"$[0].{name}", next="send fewer a call")  # fmt: skip
        return found

    def _lists(self, column: Any, name: str) -> list[Any]:
        return _cut(self._values(column.values, name), column.offsets.to_numpy().tolist(), column)

    def _structs(self, column: Any, name: str) -> list[Any]:
        fields = [each.name for each in column.type]
        if len(set(fields)) < len(fields):
            raise InvalidRequestError("a struct has two fields of one name", where=f"$[0].{name}")
        parts = [self._values(each, f"{name}.{field}") for field, each in zip(fields, column.flatten(), strict=True)]
        rows = [dict(zip(fields, each, strict=True)) for each in zip(*parts, strict=True)] if parts else []
        rows = rows or [{} for _ in range(len(column))]
        return _with_nulls(rows, column)

    def _maps(self, column: Any, name: str) -> list[Any]:
        keys, items = self._values(column.keys, name), self._values(column.items, name)
        found: list[Any] = []
        for begin, end in pairwise(column.offsets.to_numpy().tolist()):
            entries = dict(zip(keys[begin:end], items[begin:end], strict=True))
            if len(entries) < end - begin:
                raise InvalidRequestError("a map has a key twice", where=f"$[{len(found)}].{name}")
            found.append(entries)
        return _with_nulls(found, column)

    def _count_elements(self, column: Any, name: str) -> None:
        """Count the values within a column, at every depth; raise InvalidRequestError where they are too many."""
        for child in _children(column):
            self._elements_left -= len(child) * (PARTS_OF_ELEMENT if _is_dear(child.type) else 1)
            if self._elements_left < 0:
                raise InvalidRequestError(f"Expected at most {ELEMENTS_MAX} values within lists and structs",
                                          where=f"$[0].{name}", next="send fewer a call")  # fmt: skip
            self._count_elements(child, name)


def _children(column: Any) -> Iterator[Any]:
    """Give the columns that a column is made of."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        yield from _children(column.storage)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield column.values
    elif types.is_struct(kind):
        yield from column.flatten()
    elif types.is_map(kind):
        yield column.keys
        yield column.items


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_binary(kind)
        or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)
    )  # fmt: skip


def _is_dear(kind: Any) -> bool:
    """Return whether a value of a type takes several times as long as a number to be made."""
    import pyarrow as pa

    types = pa.types
    return bool(types.is_nested(kind) or types.is_decimal(kind) or types.is_time(kind) or types.is_timestamp(kind))


def _times(column: Any) -> list[Any]:
    """Return times, dates or durations to the microsecond; times with a zone are UTC. Raises pyarrow's ArrowInvalid.

    One that Python's calendar does not have stays a number, which no type takes for a time.
    """
    import pyarrow as pa

    kind, types = column.type, pa.types
    if types.is_date(kind):
        there, is_exact = pa.date32(), True
    elif types.is_duration(kind):
        there, is_exact = pa.duration("us"), kind.unit != "ns"
    else:
        there, is_exact = pa.timestamp("us", "UTC" if kind.tz else None), kind.unit != "ns"
    values: list[Any] = column.cast(there, safe=is_exact).to_numpy(zero_copy_only=False).tolist()
    if not types.is_timestamp(kind) or kind.tz is None:
        return values
    return [value.replace(tzinfo=UTC) if type(value) is datetime else value for value in values]


def _cut(values: Sequence[Any], places: Sequence[int], column: Any) -> list[Any]:
    """Return the parts of the values between each place and the next."""
    return _with_nulls([values[begin:end] for begin, end in pairwise(places)], column)


def _with_nulls(values: list[Any], column: Any) -> list[Any]:
    """Return the values with None for each that a column says is null."""
    if not column.null_count:
        return values
    return [value if there else None for value, there in zip(values, column.is_valid().to_pylist(), strict=True)]
