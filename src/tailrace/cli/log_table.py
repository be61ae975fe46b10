"""Lines of the prediction log as a person reads them: columns as wide as the first ones need, and more lines below."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.cli.printing import plain

if TYPE_CHECKING:
    import pyarrow as pa

    from tailrace.monitor.log.listing import PassedOver

HIDDEN: Final = ("error", "coalesced", "row")
"""Columns that are shown within others."""
SHORT: Final = ("time", "request_id", "score", "decision", "degraded", "whole_us", *HIDDEN)
"""The columns that are shown where none are asked for."""
_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "yellow": "33"}
_WIDTHS: Final = {"request_id": 12, "decision": 8, "degraded": 14}
"""Of short lines at least: others follow the first ones."""
_NAMES: Final = {"request_id": "id", "whole_us": "ms"}
_WIDTH_MAX: Final = 48
_US_PER_MS: Final = 1_000
_NONE: Final = "–"
TOLD_MAX: Final = 5
"""Files that are named."""


class LogTable:
    """Prints lines. is_short: of the columns `SHORT`, which are shown as a person thinks of them."""

    def __init__(self, *, is_short: bool) -> None:
        from rich.console import Console

        self._is_short = is_short
        self._has_colours = Console().color_system is not None
        self._widths: dict[str, int] = {}
        self._is_right: set[str] = set()

    def show(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Print lines, the first ones with what their columns are called."""
        rows = batch.to_pylist()
        cells = [{name: self._cell(name, value, row) for name, value in row.items()} for row in rows]
        names = [name for name in batch.schema.names if not (self._is_short and name in HIDDEN)]
        lines = []
        if not self._widths:
            self._begin(batch.schema, names, cells)
            headers = {name: self._header(name) for name in names}
            lines.append(self._line(names, headers, dict.fromkeys(names, "bold")))
        for row, shown in zip(rows, cells, strict=True):
            lines.append(self._line(names, shown, {name: self._style(name, row) for name in names}))
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def _begin(self, schema: pa.Schema, names: list[str], cells: list[dict[str, str]]) -> None:
        """Choose how wide columns are, and which are numbers."""
        import pyarrow as pa

        for name in names:
            kind = schema.field(name).type
            if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
                self._is_right.add(name)
            widest = max((len(each[name]) for each in cells), default=0)
            least = _WIDTHS.get(name, 0) if self._is_short else 0
            self._widths[name] = max(len(self._header(name)), widest, least)

    def _header(self, name: str) -> str:
        return _NAMES.get(name, name) if self._is_short else plain(name)

    def _line(self, names: list[str], texts: dict[str, str], styles: dict[str, str]) -> str:
        parts = []
        for name in names:
            text = texts[name]
            width = self._widths.get(name, len(text))
            text = text.rjust(width) if name in self._is_right else text.ljust(width)
            if name == names[-1]:
                text = text.rstrip()
            style = _STYLES.get(styles[name]) if self._has_colours else None
            parts.append(f"\x1b[{style}m{text}\x1b[0m" if style else text)
        return "  ".join(parts)

    def _cell(self, name: str, value: Any, row: dict[str, Any]) -> str:
        if not self._is_short:
            return _text(value)
        if name == "whole_us":
            return _NONE if value is None else f"{value / _US_PER_MS:.2f}"
        if name == "degraded":
            return _text(value) if value else ""
        if name == "score" and value is None:
            return _text(row.get("error") or ("shared" if row.get("coalesced") else None))
        if name == "request_id" and row.get("row"):
            return f"{_text(value)} #{row['row']}"
        return _text(value)

    def _style(self, name: str, row: dict[str, Any]) -> str:
        if not self._is_short:
            return ""
        if name == "time":
            return "dim"
        if row.get("error"):
            return "red"
        return "yellow" if name == "degraded" else ""


def _text(value: Any) -> str:
    """Return a value on one line, without what a terminal would obey."""
    match value:
        case None:
            return _NONE
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        case float():
            return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.6g}"
        case list():
            text = ", ".join(map(_text, value))
        case dict():
            text = msgspec.json.encode(value, enc_hook=str).decode()
        case _:
            text = plain(value)
    return text if len(text) <= _WIDTH_MAX else text[: _WIDTH_MAX - 1] + "…"


def tell_of(passed_over: Sequence[PassedOver]) -> None:
    """Name the files that were not read, on stderr."""
    for each in passed_over[:TOLD_MAX]:
        print(f"passed over: {plain(each.path)}: {plain(each.why)}", file=sys.stderr)
    if len(passed_over) > TOLD_MAX:
        print(f"passed over: {len(passed_over) - TOLD_MAX:,} more files", file=sys.stderr)
