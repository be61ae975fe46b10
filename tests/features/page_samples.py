"""Rows of a page, as a materialisation writes them."""

from __future__ import annotations

from tailrace.features.row_layout import EVENT_BYTE, HEADER_BYTES, WRITTEN_BYTE
from tailrace.features.stores.runs import PageRow


def row(event: int, body: bytes = b"body", written: int = 0) -> bytes:
    """Return a packed row of an event time."""
    header = bytearray(HEADER_BYTES)
    header[EVENT_BYTE:WRITTEN_BYTE] = event.to_bytes(8, "little", signed=True)
    header[WRITTEN_BYTE:HEADER_BYTES] = written.to_bytes(8, "little")
    return bytes(header) + body


def key_of(name: str) -> bytes:
    """Return the key of an entity's row."""
    return b"{c:%b}V:1" % name.encode()


def page(**rows: bytes) -> list[PageRow]:
    """Return the rows of a page, by entity."""
    return [PageRow(key_of(name), b"{c:%b}:forgotten" % name.encode(), value) for name, value in rows.items()]
