"""What went wrong, as the errors of Tailrace: an answer that is a problem, and an exchange that brought no answer."""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.client.answer import Answer
from tailrace.errors import ClientError, OutOfTimeError, RateLimitedError, ServerError, ServingError

TEXT_MAX: Final = 200
"""Characters of an answer that is no problem of ours, told in the error."""


class ExchangeError(Exception):
    """An exchange without an answer. error: for the caller. is_unsent: nothing of the request can have been read.

    is_ours: the server was not even asked, for want of a free connection.
    """

    def __init__(
        self, error: ServingError, *, is_unsent: bool = False, is_late: bool = False, is_ours: bool = False
    ) -> None:
        super().__init__(error)
        self.error = error
        self.is_unsent = is_unsent
        self.is_late = is_late
        self.is_ours = is_ours


class _Problem(msgspec.Struct):
    """Problem details (RFC 9457), as far as they are read."""

    title: str = ""
    detail: str = ""
    pointer: str = ""
    next: str = ""
    type: str = ""


def _kinds(kind: type[ServingError]) -> dict[str, type[ServingError]]:
    """Return a kind of error and those below it by the type of their problem; the first of a name."""
    found = {"urn:tailrace:" + kind.title.lower().replace(" ", "-"): kind}
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            found = _kinds(child) | found
    return found


_KINDS: Final = _kinds(ServingError)
_decode: Final = msgspec.json.Decoder(_Problem).decode


def error_of(answer: Answer, url: str) -> ServingError:
    """Return the error that an answer tells: of the same class as in the server, with the status that came."""
    problem = _Problem()
    if answer.is_problem:
        try:
            problem = _decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = _Problem()
    kind = _KINDS.get(problem.type) or _kind_of(answer.status)
    what = problem.detail or problem.title
    if not what:
        text = answer.body[: 4 * TEXT_MAX].decode("utf-8", "replace").strip()[:TEXT_MAX]
        what = f"the server answers {answer.status}: {text!r}"
    error = kind(what, where=problem.pointer or url, next=problem.next)
    if kind.status != answer.status:
        vars(error)["status"] = answer.status
    if isinstance(error, RateLimitedError) and answer.retry_after.isdigit():
        error.retry_after_s = int(answer.retry_after[:9])
    return error


def _kind_of(status: int) -> type[ServingError]:
    if status == 504:
        return OutOfTimeError
    return ClientError if 400 <= status < 500 else ServerError
