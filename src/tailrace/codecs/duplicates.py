"""The exact and slow search for a key that comes twice in one object of a body; it says where."""

from __future__ import annotations

import json
from typing import Any, Final

from tailrace.errors import MalformedBodyError

PATH_MAX: Final = 200
"""Characters of a path in an answer: its keys are the caller's own."""


def duplicate_key(body: bytes) -> MalformedBodyError | None:
    """Return the refusal, with the path of the key, of a body in which an object has a key twice; else None."""
    try:
        where = _path_of_duplicate(body.decode())  # strictly: msgspec does not look at the text that it passes over
    except (ValueError, RecursionError) as error:
        return MalformedBodyError(str(error), where="$")
    return MalformedBodyError("a key stands twice in one object", where=where[:PATH_MAX]) if where else None


def _path_of_duplicate(body: str) -> str:
    """Return the path of the first key that comes twice in its object, "" where there is none."""
    try:
        json.loads(body, object_pairs_hook=_members)
    except KeyError:  # and only now the cost of knowing where
        return _path_within(json.loads(body, object_pairs_hook=tuple), "$")
    return ""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises KeyError if a key comes twice in it."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise KeyError
    return members


def _path_within(value: Any, path: str) -> str:
    """Look in a value whose objects are tuples of pairs, and which has the path given; see `_path_of_duplicate`."""
    seen: set[str] = set()
    items: list[tuple[str, Any]] = []
    if isinstance(value, list):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, tuple):
        items = [(f"{path}.{key}", item) for key, item in value]
    for place, item in items:
        if place in seen:
            return place
        seen.add(place)
        if found := _path_within(item, place):
            return found
    return ""
