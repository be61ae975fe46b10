"""What an embedded store says when its deadline passed while it read."""

from __future__ import annotations

from typing import Final


class LateError(TimeoutError):
    """The store was late: what it had read by the deadline can be served, the other keys get defaults.

    rows: of the first keys, in their order; none where the store is being left alone. is_cold: the store has just been
    opened and its file is still being read into memory, which is no failure of it.
    """

    def __init__(self, what: str, rows: list[bytes | None], *, is_cold: bool) -> None:
        super().__init__(what)
        self.rows: Final = rows
        self.is_cold: Final = is_cold
