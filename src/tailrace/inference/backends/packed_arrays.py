"""Arrays in a file of tables: MessagePack around little-endian bytes, none of it taken on trust."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


def unpack(content: bytes, tables: Any, layout: int) -> Any:
    """Return the tables in a file's content. tables: a type of struct that names its `layout`, or a union of such.

    Raises ValueError when it holds none, or of another layout.
    """
    try:
        found = msgspec.msgpack.decode(content, type=tables)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it holds no tables: {error}") from error
    if found.layout != layout:
        raise ValueError(f"it has layout {found.layout}; this Tailrace reads layout {layout}")
    return found


def as_array(content: bytes, dtype: str | np.dtype[Any], name: str, count: int | None = None) -> NDArray[Any]:
    """Return bytes as an array of native byte order. count: of its elements, where that is known.

    Raises ValueError, with its name, for bytes of another length.
    """
    wanted = np.dtype(dtype)
    size = len(content) - len(content) % wanted.itemsize if count is None else count * wanted.itemsize
    require(len(content) == size, f"{name} of {len(content)} bytes, not {size}")
    return np.require(np.frombuffer(content, wanted), wanted.newbyteorder("="), ["C", "A"])


def require(holds: bool, what: str) -> None:
    """Raise ValueError, saying what a file holds, unless something holds."""
    if not holds:
        raise ValueError(f"it holds {what}")
