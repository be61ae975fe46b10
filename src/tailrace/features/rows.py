"""The codec of packed rows: one row per (entity, view). Decoding a batch is the hot path.

A row is served only if its length, layout, schema and entity are right. Whatever else is found under its key gives the
view's defaults and is counted, and leaves its neighbours alone. The layout is drawn in `row_layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailrace.batch import Degraded, Provenance
from tailrace.features.events import Events
from tailrace.features.keys import EntityId, KeyFormat, entity_checks, row_name
from tailrace.features.row_layout import ENTITY, EVENT, FLAG_NULLS, NULLS, STAMP, WRITTEN, row_layout
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import STRING_BYTES_MAX, Column, ViewSpec

_UINT8: Final = np.dtype("u1")
_STAMP_WITHOUT_FLAGS: Final = np.uint64(0xFFFF_FFFF_FFFF_00FF)
_FLAG_NULLS: Final = np.uint64(FLAG_NULLS << 8)
_NEVER_STALE_NS: Final = 1 << 64


class RowCodec:
    """Packs and unpacks the rows of one view.

    spec: a view without problems. dtype: of `ViewRows.data`. blocks: its columns of one type, which are side by side.
    """

    def __init__(self, spec: ViewSpec) -> None:
        layout = row_layout(spec)
        self.spec = spec
        self.dtype = layout.dtype
        self.blocks = layout.blocks
        self.schema_id = layout.schema_id
        self._format = KeyFormat(spec.entity.name, row_name(spec.name, layout.schema_id))
        self.key = self._format.key
        self.keys = self._format.keys
        self._size = layout.dtype.itemsize
        self._fixed = itemgetter(slice(0, self._size))
        self._stamp = np.uint64(layout.stamp)
        self._stamp_bytes = self._stamp.tobytes()
        self._texts = tuple(zip((column.name for column in layout.texts), layout.lengths, strict=True))
        self._text_defaults = {column.name: column.default for column in layout.texts}
        self._numbers = tuple(column for column in spec.columns if not column.is_text)
        self._default = np.zeros(1, self.dtype)
        self._default[STAMP] = self._stamp
        self._default[EVENT] = np.iinfo(np.int64).max  # it is never stale
        for column in self._numbers:
            self._default[column.name] = column.default
        self._default_row = self._default.tobytes()
        self._max_staleness_ns = _NEVER_STALE_NS if spec.max_staleness_ns is None else spec.max_staleness_ns

    def unpack(
        self,
        ids: Sequence[EntityId],
        rows: Sequence[bytes | None],
        wall_ns: int,
        checks: list[int] | None = None,
        current: Events | None = None,
    ) -> ViewRows:
        """Return the values of each id from the row found under its key; see `ViewCodec`.

        A row is as it was written whatever event it is asked for.
        """
        if checks is None:
            checks = entity_checks(ids)
        return self._unpack_right(checks, rows, wall_ns) or self._unpack_each(checks, rows, wall_ns)

    def _unpack_right(self, checks: list[int], rows: Sequence[bytes | None], wall_ns: int) -> ViewRows | None:
        """Unpack a batch in which every row that is known is right, as in nearly all; None for any other."""
        size, all_known = self._size, None not in rows
        parts: Sequence[Any] = rows
        if not all_known:
            parts = [self._default_row if row is None else row for row in rows]
            checks = [0 if row is None else check for check, row in zip(checks, rows, strict=True)]
        if self._texts:
            parts = list(map(self._fixed, parts))
        joined = b"".join(parts)
        if not rows or len(joined) != size * len(rows) or max(map(len, parts)) != size:
            return None
        data, nulls = np.frombuffer(joined, self.dtype), None
        if data[ENTITY].tolist() != checks:  # as lists and bytes: arrays take three times as long to compare
            return None
        strings = self._read_texts(rows, data) if self._texts else {}
        flagged = data[STAMP].tobytes() != self._stamp_bytes * len(rows)
        if strings is None or (flagged and np.count_nonzero((data[STAMP] & _STAMP_WITHOUT_FLAGS) != self._stamp)):
            return None
        if flagged:
            data = np.frombuffer(bytearray(joined), self.dtype)
            nulls = self._fill_nulls(data, strings)
        if all_known and min(data[EVENT].tolist()) >= wall_ns - self._max_staleness_ns:
            return ViewRows(data, strings, None, nulls)
        provenance = np.array([Provenance.DEFAULT if row is None else Provenance.FRESH for row in rows], _UINT8)
        return ViewRows(data, strings, provenance, nulls, self._mark_stale(data[EVENT], wall_ns, provenance))

    def _mark_stale(
        self, event_ns: NDArray[np.int64], wall_ns: int, provenance: NDArray[np.uint8]
    ) -> NDArray[np.uint8] | None:
        """Note the provenance of rows that are too old; return which are degraded by it, None where none is."""
        oldest_ns = wall_ns - self._max_staleness_ns
        if min(event_ns.tolist()) >= oldest_ns:
            return None
        stale = event_ns < oldest_ns
        provenance[stale] = Provenance.STALE
        return stale * _UINT8.type(Degraded.STALE_FEATURES)

    def defaults(self, rows_count: int, provenance: Provenance, degraded: int = 0) -> ViewRows:
        """Return the view's defaults, for entities that are unknown or a store that did not answer.

        degraded: `Degraded` bits of every row.
        """
        return ViewRows(
            np.repeat(self._default, rows_count),
            {name: [default] * rows_count for name, default in self._text_defaults.items()},
            np.full(rows_count, provenance, _UINT8),
            degraded=np.full(rows_count, degraded, _UINT8) if degraded else None,
        )

    def _unpack_each(self, checks: list[int], rows: Sequence[bytes | None], wall_ns: int) -> ViewRows:
        """Unpack a batch in which a row may be missing, wrong, stale, or hold nulls or texts."""
        size, has_texts = self._size, bool(self._texts)
        lengths = np.array([-1 if row is None else len(row) for row in rows], np.intp)
        known = lengths >= 0
        whole = lengths >= size if has_texts else lengths == size
        default = self._default_row
        parts = [
            row[:size] if right and row is not None else default
            for row, right in zip(rows, whole.tolist(), strict=True)
        ]
        data = np.frombuffer(bytearray().join(parts), self.dtype)
        right = whole & ((data[STAMP] & _STAMP_WITHOUT_FLAGS) == self._stamp) & (data[ENTITY] == checks)
        strings: dict[str, list[str]] = {}
        if has_texts:
            strings = self._unpack_texts(rows, data, lengths, right)
        wrong = known & ~right
        errors = int(np.count_nonzero(wrong))
        if not right.all():
            data[~right] = self._default[0]
        provenance: NDArray[np.uint8] = np.zeros(len(rows), _UINT8)
        provenance[~right] = Provenance.DEFAULT
        degraded = self._mark_stale(data[EVENT], wall_ns, provenance) if len(rows) else None
        if errors:
            degraded = np.zeros(len(rows), _UINT8) if degraded is None else degraded
            degraded[wrong] |= _UINT8.type(Degraded.STORE_ERROR)
        noted = provenance if np.count_nonzero(provenance) else None
        return ViewRows(data, strings, noted, self._fill_nulls(data, strings), degraded, errors)

    def _fill_nulls(self, data: NDArray[Any], strings: dict[str, list[str]]) -> NDArray[np.bool_] | None:
        """Put defaults where rows hold nulls; return where, or None."""
        flagged = (data[STAMP] & _FLAG_NULLS) != 0
        if not np.count_nonzero(flagged):
            return None
        bits = np.unpackbits(data[NULLS], axis=1, count=len(self.spec.columns), bitorder="little")
        nulls: NDArray[np.bool_] = bits.view(np.bool_) & flagged[:, np.newaxis]
        for index in np.flatnonzero(nulls.any(axis=0)).tolist():
            column, where = self.spec.columns[index], nulls[:, index]
            if column.is_text:
                texts = strings[column.name]
                for row in np.flatnonzero(where).tolist():
                    texts[row] = column.default
            elif column.width:
                data[column.name][where] = self._default[column.name]
            else:
                np.putmask(data[column.name], where, self._default[column.name])
        return nulls

    def _read_texts(self, rows: Sequence[bytes | None], data: NDArray[Any]) -> dict[str, list[str]] | None:
        """Return the texts of rows, defaults of those that are unknown; None where a row's tail is not right."""
        strings: dict[str, list[str]] = {}
        begins = [self._size] * len(rows)
        try:
            for name, length in self._texts:
                ends = [begin + size for begin, size in zip(begins, data[length].tolist(), strict=True)]
                default = self._text_defaults[name]
                strings[name] = [
                    default if row is None else str(row[begin:end], "utf-8")
                    for row, begin, end in zip(rows, begins, ends, strict=True)
                ]
                begins = ends
        except UnicodeDecodeError:
            return None
        return strings if all(row is None or len(row) == end for row, end in zip(rows, begins, strict=True)) else None

    def _unpack_texts(
        self,
        rows: Sequence[bytes | None],
        data: NDArray[Any],
        lengths: NDArray[np.intp],
        right: NDArray[np.bool_],
    ) -> dict[str, list[str]]:
        """Return the texts of every row, defaults where it is not right; mark as wrong a row whose tail is not."""
        sizes = np.stack([data[length] for _, length in self._texts], axis=1).astype(np.intp)
        right &= lengths == self._size + sizes.sum(axis=1)
        ends = (sizes.cumsum(axis=1) + self._size).tolist()
        names = tuple(name for name, _ in self._texts)
        defaults = tuple(self._text_defaults.values())
        texts: list[tuple[str, ...]] = []
        for index, row in enumerate(rows):
            found = defaults
            if row is not None and right[index]:
                try:
                    found = _decode(row, self._size, ends[index])
                except UnicodeDecodeError:
                    right[index] = False
            texts.append(found)
        return dict(zip(names, map(list, zip(*texts, strict=True)), strict=True)) if texts else {n: [] for n in names}

    def pack(
        self,
        ids: Sequence[EntityId],
        columns: Mapping[str, ArrayLike],
        event_ns: ArrayLike,
        written_ns: int,
    ) -> list[bytes]:
        """Return a packed row for each id.

        columns: by name, each of shape (rows,): an array, a masked array, or a sequence in which None is null; of
        vectors an array (rows, width), or a sequence of vectors and None.
        event_ns: one time, or one each, since the epoch. Raises KeyError for a missing column, ValueError for
        a value that its type does not hold, or a text over `STRING_BYTES_MAX`.
        """
        data = np.zeros(len(ids), self.dtype)
        data[ENTITY] = entity_checks(ids)
        data[EVENT], data[WRITTEN] = event_ns, written_ns
        nulls = np.zeros((len(ids), len(self.spec.columns)), np.bool_)
        tails: list[list[bytes]] = []
        lengths = dict(self._texts)
        for index, column in enumerate(self.spec.columns):
            if column.width:
                values, nulls[:, index] = _vectors_and_nulls(columns[column.name], column)
            else:
                values, nulls[:, index] = _values_and_nulls(columns[column.name], column.default, column.dtype)
            if column.is_text:
                encoded = [_encode(value, column.name) for value in values]
                data[lengths[column.name]] = [len(text) for text in encoded]
                tails.append(encoded)
            else:
                data[column.name] = _as_type(values, column.name, column.dtype)
        data[NULLS] = np.packbits(nulls, axis=1, bitorder="little") if nulls.shape[1] else 0
        data[STAMP] = self._stamp + nulls.any(axis=1) * _FLAG_NULLS
        packed, size = data.tobytes(), self._size
        fixed = [packed[begin : begin + size] for begin in range(0, len(packed), size)]
        return [b"".join(parts) for parts in zip(fixed, *tails, strict=True)] if tails else fixed


def _decode(row: bytes, begin: int, ends: list[int]) -> tuple[str, ...]:
    """Return the texts of one row's tail."""
    texts = []
    for end in ends:
        texts.append(str(row[begin:end], "utf-8", "strict"))
        begin = end
    return tuple(texts)


def _encode(text: Any, name: str) -> bytes:
    encoded = str(text).encode("utf-8", "replace")
    if len(encoded) > STRING_BYTES_MAX:
        raise ValueError(f"{name}: a text of {len(encoded)} bytes is over {STRING_BYTES_MAX}")
    return encoded


def _values_and_nulls(values: Any, default: Any, dtype: np.dtype[Any]) -> tuple[Any, NDArray[np.bool_] | bool]:
    """Return a column without nulls, and where they were. A null holds the default: it costs no bit pattern."""
    if isinstance(values, np.ma.MaskedArray):
        masked, ma = cast(Any, values), cast(Any, np.ma)  # older NumPy has no types for these
        return masked.filled(default if dtype.kind != "O" else ""), ma.getmaskarray(masked)
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values, False
    nulls = np.array([value is None for value in values], np.bool_)
    blank = "" if dtype.kind == "O" else default
    filled = [blank if value is None else value for value in values]
    return filled, nulls


def _vectors_and_nulls(values: Any, column: Column) -> tuple[NDArray[Any], NDArray[np.bool_] | bool]:
    """Return vectors without nulls, (rows, width), and where they were. Raises ValueError for one of another length."""
    nulls: NDArray[np.bool_] | bool = False
    if not isinstance(values, np.ndarray):
        nulls = np.array([value is None for value in values], np.bool_)
        values = [column.default if value is None else value for value in values]
        if any(len(value) != column.width for value in values):
            raise ValueError(f"{column.name}: a vector has {column.width} numbers")
        values = np.array(values, np.float64).reshape(len(values), column.width)
    if values.shape[1:] != (column.width,):
        raise ValueError(f"{column.name}: a vector has {column.width} numbers, not {values.shape[1:]}")
    return values, nulls


def _as_type(values: Any, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a column as its type, floats rounded. Raises ValueError for a value that would become another one."""
    if isinstance(values, list) and all(type(value) is int for value in values):  # exact, where an array would be float
        try:
            return np.array(values, dtype)
        except OverflowError as error:
            raise ValueError(f"{name}: {error}") from None
    given = np.asarray(values)
    if given.dtype == dtype:
        return given
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{name}: {given.tolist()[0]!r} is no {dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = given.astype(dtype)
    wrong = np.isfinite(cast) != np.isfinite(given) if dtype.kind == "f" else cast != given
    if np.count_nonzero(wrong):
        raise ValueError(f"{name}: {given.flat[wrong.argmax()].item()!r} is no {dtype}")
    return cast
