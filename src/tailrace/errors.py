"""The tree of errors. Every error says what, where and what next; each serving error owns its HTTP and gRPC code.

Two branches that are handled differently:

- `SetupError`: a declaration, model, source or store that cannot be served. Raised before traffic.
- `ServingError`: one call's answer. `ClientError` (its own fault), `ServerError` (ours) and `OutOfTimeError` (a
  deadline) are apart. While serving they are values that are returned, not raised: a refusal is no surprise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self


class Problem(NamedTuple):
    """One mistake in a declaration: what is wrong, where it is, what to do next."""

    what: str
    where: str
    next: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    next: {self.next}"


class TailraceError(Exception):
    """The root of every error of Tailrace.

    what: the fault, in one sentence. where: the file, field or address. next: what to do about it.
    """

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:  # noqa: A002 - the word of the domain
        super().__init__(what, where, next)
        self.what = what
        self.where = where
        self.next = next

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    next: {self.next}" if self.next else text

    def bare(self) -> Self:
        """Return it without where it was raised, and in whose place: both hold frames, and a frame holds it in turn.

        Such a circle stays, with the body that was refused, until garbage is collected.
        """
        self.__traceback__ = self.__context__ = None
        return self

    def __reduce__(self) -> Any:
        """Let it be copied and pickled, whatever its class takes to be made."""
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[TailraceError], args: tuple[Any, ...]) -> TailraceError:
    return kind.__new__(kind, *args)


class SetupError(TailraceError):
    """Something is wrong before serving starts."""


class CompileError(SetupError):
    """A pipeline that cannot be compiled, with every mistake found in it."""

    def __init__(self, pipeline: str, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        super().__init__(f"pipeline {pipeline!r} has {count}")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *(f"  {problem}" for problem in self.problems)])


class ModelPackageError(SetupError):
    """A model directory that is missing, cut short, altered, or does not give its golden scores."""


class RegistryError(SetupError):
    """A registry of models that cannot be read or written, or a version that is absent, held, altered or untrusted."""


class SourceError(SetupError):
    """A batch source that cannot be read as its view declares it."""


class StoreError(SetupError):
    """An online store that cannot be opened, or holds rows of another layout."""


class NoStoreError(StoreError):
    """An online store that is not there yet, or not any more."""


class LeaseError(StoreError):
    """A view that another run is writing, or has written since this one began."""


class LoadtestError(SetupError):
    """A load run that cannot be carried out: a plan outside its limits, or a server that cannot be reached."""


class ServingError(TailraceError):
    """One call cannot be answered with a decision. Owns the codes it is answered with."""

    status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    title: ClassVar[str] = "Internal error"


class ClientError(ServingError):
    """The caller's own fault; asking again with the same words gives the same answer."""

    status = 400
    grpc_code = "INVALID_ARGUMENT"
    title = "Bad request"


class MalformedBodyError(ClientError):
    """The body is not the JSON it claims to be."""

    title = "Malformed body"


class InvalidRequestError(ClientError):
    """The body is JSON, but not a valid request: a field is missing, of the wrong type, out of range or unknown."""

    status = 422
    title = "Invalid request"


class InvalidTensorError(ClientError):
    """The tensors of a call of the Open Inference Protocol are not those of the pipeline, or not what they claim."""

    title = "Invalid tensor"


class UnauthorizedError(ClientError):
    """The caller does not show who it is, or shows something that is not known."""

    status = 401
    grpc_code = "UNAUTHENTICATED"
    title = "Unauthorized"


class ForbiddenError(ClientError):
    """The caller is known, and may not do this."""

    status = 403
    grpc_code = "PERMISSION_DENIED"
    title = "Forbidden"


class NotFoundError(ClientError):
    """No such path or pipeline."""

    status = 404
    grpc_code = "NOT_FOUND"
    title = "Not found"


class MethodNotAllowedError(ClientError):
    """The path exists, but not for this method."""

    status = 405
    grpc_code = "UNIMPLEMENTED"
    title = "Method not allowed"


class RequestTimeoutError(ClientError):
    """The client took longer to send its request than it may."""

    status = 408
    grpc_code = "DEADLINE_EXCEEDED"
    title = "Request timeout"


class BodyTooLargeError(ClientError):
    """The body is over the limit."""

    status = 413
    grpc_code = "RESOURCE_EXHAUSTED"
    title = "Body too large"


class HeadersTooLargeError(ClientError):
    """The request line and headers are over the limit."""

    status = 431
    grpc_code = "RESOURCE_EXHAUSTED"
    title = "Headers too large"


class ExpectationFailedError(ClientError):
    """An `Expect` other than 100-continue."""

    status = 417
    title = "Expectation failed"


class UnsupportedCodingError(ClientError):
    """The body is compressed in a way that is not known here."""

    status = 415
    grpc_code = "UNIMPLEMENTED"
    title = "Unsupported content coding"


class UnsupportedTypeError(ClientError):
    """The body is of a media type that this pipeline is not set up to read."""

    status = 415
    grpc_code = "UNIMPLEMENTED"
    title = "Unsupported media type"


class RateLimitedError(ClientError):
    """The caller, or all callers of the pipeline together, ask more than the limit that is set.

    reason: which limit, as the metrics call it. retry_after_s: when to ask again. policy, left: what is limited, and
    what is left of it, as RateLimit-Policy and RateLimit say it (draft-ietf-httpapi-ratelimit-headers-10).
    """

    status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    title = "Rate limited"

    def __init__(
        self, what: str, *, where: str = "", next: str = "", reason: str = "",  # noqa: A002 - as in the root
        retry_after_s: int = 1, policy: str = "", left: str = "",
    ) -> None:  # fmt: skip
        super().__init__(what, where=where, next=next)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.policy = policy
        self.left = left


class HandshakeError(ClientError):
    """A connection that did not become secret: no TLS, a certificate that is not taken, or too slow."""

    title = "Handshake failed"


class ServerError(ServingError):
    """Our fault; the same call may succeed later."""


class InferenceError(ServerError):
    """The model gave no usable score for this row, and the pipeline declares no fallback."""

    title = "Inference failed"


class UnavailableError(ServerError):
    """Not ready, or at the limit of connections."""

    status = 503
    grpc_code = "UNAVAILABLE"
    title = "Unavailable"


class InsufficientStorageError(ServerError):
    """A request that is to be on disk before it is accepted, and cannot be put there."""

    status = 507
    grpc_code = "RESOURCE_EXHAUSTED"
    title = "Insufficient storage"


class OutOfTimeError(ServingError):
    """A call that cannot be answered, or was not answered, by its deadline."""

    status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    title = "Out of time"


class ShedError(OutOfTimeError):
    """Refused early: the queue and what follows would take longer than the call has."""

    status = 503
    grpc_code = "UNAVAILABLE"
    title = "Shed"


class DeadlineExceededError(OutOfTimeError):
    """Accepted, but the model did not answer in time, and the pipeline declares no fallback."""

    title = "Deadline exceeded"
