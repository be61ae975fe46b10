"""A reader of UBJSON that believes no count: what XGBoost writes as `.ubj`, looked at before XGBoost reads it.

UBJSON (https://ubjson.org) is JSON in binary. A value begins with a letter for its type; an array may say beforehand of
what type its values are, and how many. These become NumPy arrays, others lists.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

DEPTH_MAX: Final = 64
_NUMBERS: Final = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_CONSTANTS: Final[dict[bytes, Any]] = {b"Z": None, b"T": True, b"F": False}


def decode_ubjson(content: bytes) -> Any:
    """Return the value in a content. Raises ValueError unless it is one whole value, and nothing but that."""
    reader = _Reader(content)
    value = reader.value(reader.take(1), 0)
    if reader.at != len(content):
        raise ValueError(f"{len(content) - reader.at} bytes stand behind its end")
    return value


class _Reader:
    """A content, read from its beginning up to `at`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raises ValueError where there are fewer."""
        if not 0 <= count <= len(self._content) - self.at:
            raise ValueError(f"{count} bytes are promised at byte {self.at}, and {len(self._content)} are there in all")
        self.at += count
        return self._content[self.at - count : self.at]

    def value(self, kind: bytes, depth: int) -> Any:
        """Return the value that begins here, of a type that was read."""
        if depth > DEPTH_MAX:
            raise ValueError(f"it is nested more than {DEPTH_MAX} deep")
        if kind in _NUMBERS:
            return self._array(kind, 1)[0].item()
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind == b"S":
            return self._text()
        if kind == b"C":
            return self.take(1).decode("latin1")
        if kind == b"[":
            return self._list(depth)
        if kind == b"{":
            return self._object(depth)
        raise ValueError(f"byte {self.at - 1} begins no value")

    def _array(self, kind: bytes, count: int) -> Any:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def _count(self) -> int:
        kind = self.take(1)
        if kind not in _NUMBERS or kind in b"dD":
            raise ValueError(f"byte {self.at - 1} begins no count")
        count = int(self._array(kind, 1)[0])
        if not 0 <= count <= len(self._content):
            raise ValueError(f"{count} values are promised, in {len(self._content)} bytes")
        return count

    def _text(self) -> str:
        return self.take(self._count()).decode("utf-8", "replace")

    def _head(self) -> tuple[bytes, int | None]:
        """Return the type and the number of an array's or object's values, where it says them beforehand."""
        kind = b""
        if self._content[self.at : self.at + 1] == b"$":
            self.at += 1
            kind = self.take(1)
        if self._content[self.at : self.at + 1] != b"#":
            if kind:
                raise ValueError("it says a type without a number")
            return kind, None
        self.at += 1
        return kind, self._count()

    def _list(self, depth: int) -> Any:
        kind, count = self._head()
        if kind in _NUMBERS and count is not None:
            return self._array(kind, count)
        if kind:
            raise ValueError("an array of another type than numbers")
        values: list[Any] = []
        while len(values) != count:
            begin = self.take(1)
            if count is None and begin == b"]":
                break
            values.append(self.value(begin, depth + 1))
        return values

    def _object(self, depth: int) -> dict[str, Any]:
        kind, count = self._head()
        if kind:
            raise ValueError("an object of one type")
        found: dict[str, Any] = {}
        members = 0
        while members != count:
            if count is None and self._content[self.at : self.at + 1] == b"}":
                self.at += 1
                break
            name = self._text()
            if name in found:
                raise ValueError(f"{name} stands twice")
            found[name] = self.value(self.take(1), depth + 1)
            members += 1
        return found
