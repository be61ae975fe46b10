"""A large batch in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from tailrace.errors import ServerError, SetupError

PART_ROWS: Final = 256
"""Requests in one part."""


def parts_of(requests: Iterable[Any], rows: int) -> Iterator[list[Any]]:
    """Yield the requests in lists of `rows`, read as they are wanted. Raises SetupError for parts of nothing."""
    if rows < 1:
        raise SetupError(f"parts of {rows} requests", where="rows", next="take 1 or more")
    left = iter(requests)
    while part := list(islice(left, rows)):
        yield part


def one_each(answers: list[Any], count: int, pipeline: str) -> list[Any]:
    """Return the answers to a part. Raises ServerError where there is not one for each request."""
    if len(answers) != count:
        raise ServerError(f"{len(answers)} answers to {count} requests", where=pipeline, next="look at the server")
    return answers
