"""What a protocol of remote models is: how a batch's rows become a request, and an answer their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds
from tailrace.inference.remote.connection import Reply
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.signature import Signature

ROWS_AT_FAULT: Final = frozenset({400, 422, 500})
"""Statuses with which a server may refuse a batch for what one of its rows holds."""

SHOWN_MAX: Final = 200
"""Characters of what a server says that are shown."""


class RemoteSignature(msgspec.Struct, frozen=True):
    """What a remote model takes and gives, and how it is asked.

    columns: that the output has; 0 where only the one that is the score is known. flat: inputs of shape (rows,), which
    others have as (rows, 1). is_binary: whether the server takes tensors as bytes.
    """

    signature: Signature
    columns: int = 1
    flat: tuple[str, ...] = ()
    is_binary: bool = False


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """The model that is asked. path: of its predictions. version: "" for any; model: its name at the server."""

    path: str
    model: str
    version: str


class Asked(NamedTuple):
    """A request: more lines of its head, its body, and the id that the answer must have, if the protocol knows one."""

    head: bytes
    body: bytes
    id: str = ""


class RemoteProtocol(Protocol):
    """Turns rows into a request, and its answer into scores.

    path: that is asked. content_type: of the request. takes_nan: whether a request can hold what is no finite number.
    """

    path: str
    content_type: str
    takes_nan: bool

    def encode(self, feeds: Feeds, rows: int, left_ns: int) -> Asked:
        """Return the request for some rows. left_ns: until the answer must be there."""
        ...

    def decode(self, reply: Reply, rows: int, asked_id: str) -> NDArray[Any]:
        """Return the scores in an answer of status 200: float64, (rows,) or (rows, classes). Raises RemoteError."""
        ...

    def refuses_rows(self, reply: Reply) -> bool:
        """Return whether an answer of another status may be for what one of the rows holds."""
        ...


def fit_scores(scores: NDArray[Any], described: RemoteSignature, rows: int) -> NDArray[Any]:
    """Return an output as scores, (rows,) or (rows, classes). Raises RemoteError for one that is not of these rows."""
    if scores.ndim not in {1, 2} or len(scores) != rows:
        raise misshapen(f"the output has the shape {scores.shape} for {rows} rows")
    columns, column = scores.shape[1] if scores.ndim == 2 else 1, described.signature.column
    if described.columns and columns != described.columns:
        raise misshapen(f"the output has {columns} columns where {described.columns} are expected")
    if column is None:
        return scores if columns > 1 else scores.reshape(rows)
    if column >= columns:
        raise misshapen(f"the output has {columns} columns, and column {column} is the score")
    return scores if scores.ndim == 1 else np.ascontiguousarray(scores[:, column])


def to_numbers(cells: Any) -> NDArray[Any]:
    """Return decoded JSON as an array of float64, (rows,) or (rows, columns); a null is NaN.

    Raises RemoteError for what is not numbers: a text that looks like one is none.
    """
    fault: Exception | None = None
    for kind in (list[float | None], list[list[float | None]]):
        try:
            return np.array(msgspec.convert(cells, kind), np.float64)
        except (msgspec.ValidationError, ValueError) as error:  # ValueError: rows of different lengths
            fault = fault or error
    raise misshapen(f"the output is no table of numbers: {fault}")


def misshapen(what: str) -> RemoteError:
    """Return the error of an output that is not what the model gives."""
    return RemoteError(RemoteFault.MISSHAPEN, what)


def foreign(what: str) -> RemoteError:
    """Return the error of an answer that belongs to another model or request."""
    return RemoteError(RemoteFault.FOREIGN, what)


def unreadable(what: object) -> RemoteError:
    """Return the error of an answer that is not the protocol's."""
    return RemoteError(RemoteFault.UNREADABLE, f"the answer is not the protocol's: {what}")


def check_coding(reply: Reply) -> None:
    """Raise RemoteError for an answer that is compressed, which none was asked to be."""
    if (coding := reply.headers.get(b"content-encoding", b"identity").lower()) != b"identity":
        raise unreadable(f"it is encoded as {coding.decode('latin-1')!r}, which was not asked for")


def refused(reply: Reply, *, of_rows: bool) -> RemoteError:
    """Return the error of a status other than 200; a redirection is not followed."""
    said = reply.body[:SHOWN_MAX].decode("utf-8", "replace")
    return RemoteError(
        RemoteFault.STATUS, f"the server answered {reply.status}: {said!r}", reply.status, of_rows=of_rows
    )
