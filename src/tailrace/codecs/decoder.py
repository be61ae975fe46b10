"""From the bytes of a body to validated requests; from a fault in them to an error that carries its path."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import msgspec

from tailrace.errors import InvalidRequestError, MalformedBodyError, ServerError, ServingError
from tailrace.request.schema import Field, Request, bounded_type, field_specs

PATH_MAX: Final = 200
"""Characters of a path that is told: its keys are the caller's own."""


class RequestDecoder:
    """Decodes one request, or an array of them, with everything that can be decided beforehand decided.

    About 0.4 µs for a flat request of five fields. request_type: of the requests that come out, the user's or below it.
    """

    def __init__(self, request_type: type[Request], *, array_max: int) -> None:
        self.request_type = bounded = bounded_type(request_type)
        many = Annotated[list[bounded], Field(max_length=array_max)]  # type: ignore[valid-type]
        self._decode = msgspec.json.Decoder(bounded | many).decode
        self._quotes = _quotes_of(request_type)

    def decode(self, body: bytes) -> Any:
        """Return a request, a list of requests, or why the body is neither.

        That is a MalformedBodyError for what is not JSON or says a key twice, an InvalidRequestError, with the path of
        the fault, for what is JSON but not a request, and a ServerError where the request type's own code raises
        anything but ValueError, TypeError (which say that the request is invalid) or a ServingError, which is returned.
        """
        try:
            requests = self._decode(body)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `")
            return InvalidRequestError(what, where=path.rstrip("`") or "$")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return MalformedBodyError(str(error) or "the body is not JSON", where="$")
        except ServingError as refusal:  # of the request type's own
            return refusal
        except Exception as error:  # of a __post_init__, on what one caller sent
            fault = ServerError(f"{type(error).__name__} in reading this request", next="see the server's log")
            fault.__cause__ = error
            return fault
        # JSON with a key twice has two readings; an attacker picks the one that the next system does not take. A flat
        # request has a fixed number of quotes, so the usual body is cleared by one count (bench/layers.py).
        if body.count(b'"') != (len(requests) * self._quotes if type(requests) is list else self._quotes):
            return _duplicate_key(body) or requests
        return requests


def _quotes_of(request_type: type[Request]) -> int:
    """Return how many quotes every body of this type has, or -1 where bodies differ."""
    count = 0
    for spec in field_specs(request_type).values():
        if spec.quotes is None or not spec.required:
            return -1
        count += 2 + spec.quotes
    return count if request_type.__struct_config__.forbid_unknown_fields else -1


def _duplicate_key(body: bytes) -> MalformedBodyError | None:
    """Return the refusal, with the path of the key, of a body in which an object has a key twice; else None."""
    try:
        where = _path_of_duplicate(body.decode())  # strictly: msgspec does not look at the text that it passes over
    except (ValueError, RecursionError) as error:
        return MalformedBodyError(str(error), where="$")
    return MalformedBodyError("a key stands twice in one object", where=where[:PATH_MAX]) if where else None


def _path_of_duplicate(body: str) -> str:
    """Return the path of the first key that stands twice in its object, "" where there is none."""
    try:
        json.loads(body, object_pairs_hook=_members)
    except KeyError:  # and only now the cost of knowing where
        return _path_within(json.loads(body, object_pairs_hook=tuple), "$")
    return ""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises KeyError if a key stands in it twice."""
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
