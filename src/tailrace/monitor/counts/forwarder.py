"""Counting what is sent on of the prediction log, in the forwarder's block. It alone writes there."""

from __future__ import annotations

from tailrace.monitor.shared import MetricBlock


class ForwarderCounts:
    """The cells of one sink."""

    def __init__(self, block: MetricBlock, sink: str) -> None:
        self._cells = block.cells
        self._sent = block.find("tailrace_log_sent_total", sink).offset
        self._lost = block.find("tailrace_log_unsent_total", sink).offset
        self._bytes = block.find("tailrace_log_waiting_bytes", sink).offset
        self._age = block.find("tailrace_log_waiting_seconds", sink).offset

    def send(self, lines: int) -> None:
        """Count lines that the sink has."""
        self._cells[self._sent] += lines

    def lose(self, lines: int) -> None:
        """Count lines that went before it had them."""
        self._cells[self._lost] += lines

    def show(self, waiting_bytes: int, waiting_ns: int) -> None:
        """Show what waits for it, and since when it has not had all there was."""
        self._cells[self._bytes], self._cells[self._age] = waiting_bytes, waiting_ns
