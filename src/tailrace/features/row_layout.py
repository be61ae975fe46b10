"""Where everything is in a packed row. Little-endian, every field on its own boundary.

    0   layout u8 | flags u8 | 0 u16 | schema id u32     together "$stamp"
    8   the entity's check i64
    16  event time i64 ns     24  written time i64 ns     since the epoch
    32  columns, widest types first, columns of one type side by side in declared order
        vectors, widest types first, each on its type's boundary
        lengths of the texts, u16 each | null bitmap, one bit a column in declared order | zeros up to 8 bytes
    …   the texts, UTF-8, one after the other

The schema id is a CRC of the entity's and the view's name and its columns' names and types: a row of another schema is
never served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

import numpy as np

from tailrace.features.view_spec import Block, Column, ViewSpec

LAYOUT: Final = 1
FLAG_NULLS: Final = 1
"""Some column of the row is null."""

EVENT_BYTE: Final = 16
WRITTEN_BYTE: Final = 24
HEADER_BYTES: Final = 32
STAMP, ENTITY, EVENT, WRITTEN, NULLS = "$stamp", "$entity", "$event", "$written", "$nulls"
_HEADER: Final = {STAMP: ("<u8", 0), ENTITY: ("<i8", 8), EVENT: ("<i8", EVENT_BYTE), WRITTEN: ("<i8", WRITTEN_BYTE)}


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A view's packed row. dtype: of its fixed part; the fields whose names begin with $ are not columns."""

    dtype: np.dtype[Any]
    blocks: tuple[Block, ...]
    texts: tuple[Column, ...]
    lengths: tuple[str, ...]
    schema_id: int

    @property
    def stamp(self) -> int:
        """The first eight bytes of a row without nulls."""
        return LAYOUT | self.schema_id << 32


def row_layout(spec: ViewSpec) -> RowLayout:
    """Return the layout of a view's rows; the same for the same name, columns and types."""
    fields: dict[str, tuple[Any, int]] = dict(_HEADER)
    blocks = []
    end = HEADER_BYTES
    for dtype, names in _columns_by_type(spec):
        field = f"${dtype.name}"
        fields[field] = ((dtype, (len(names),)), end)
        fields |= {name: (dtype, end + index * dtype.itemsize) for index, name in enumerate(names)}
        blocks.append(Block(field, dtype, names))
        end += dtype.itemsize * len(names)
    for column in _vectors(spec):
        end += -end % column.dtype.itemsize
        fields[column.name] = ((column.dtype, (column.width,)), end)
        blocks.append(Block(column.name, column.dtype, (column.name,)))
        end += column.dtype.itemsize * column.width
    texts = tuple(column for column in spec.columns if column.is_text)
    end += end % 2
    lengths = tuple(f"$length:{column.name}" for column in texts)
    fields |= {name: ("<u2", end + 2 * index) for index, name in enumerate(lengths)}
    end += 2 * len(texts)
    bitmap_bytes = max(1, -(-len(spec.columns) // 8))
    fields[NULLS] = (("u1", (bitmap_bytes,)), end)
    end += bitmap_bytes
    dtype = np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": -(-end // 8) * 8,
        }
    )
    return RowLayout(dtype, tuple(blocks), texts, lengths, crc32(schema_text(spec).encode()))


def _columns_by_type(spec: ViewSpec) -> list[tuple[np.dtype[Any], tuple[str, ...]]]:
    """Return the columns of one number each, by type, widest first."""
    groups: dict[np.dtype[Any], list[str]] = {}
    for column in spec.columns:
        if not column.is_text and not column.width:
            groups.setdefault(column.dtype, []).append(column.name)
    ordered = sorted(groups.items(), key=lambda group: -group[0].itemsize)
    return [(dtype, tuple(names)) for dtype, names in ordered]


def _vectors(spec: ViewSpec) -> list[Column]:
    """Return the columns of vectors, widest types first."""
    return sorted((column for column in spec.columns if column.width), key=lambda column: -column.dtype.itemsize)


def schema_text(spec: ViewSpec) -> str:
    """Return what a view's schema id is made of: `customer.CustomerProfile(amount:<f8,…)`."""
    columns = ",".join(
        f"{column.name}:{column.dtype.str}" + (f"[{column.width}]" if column.width else "") for column in spec.columns
    )
    return f"{spec.entity.name}.{spec.name}({columns})"
