"""The protocol's service over gRPC: each pipeline is a model, as it is over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from tailrace.errors import MalformedBodyError, NotFoundError, ServingError
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.grpc.call import GrpcCall
from tailrace.server.grpc.service import Outcome, Service
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.grpc_asked import GrpcAsked, GrpcReader
from tailrace.server.oip.grpc_extent import check_extent
from tailrace.server.oip.grpc_messages import FILE, METHODS, SERVICE, message_class
from tailrace.server.oip.routes import model_metadata, server_metadata

_REQUESTS: Final = {method: message_class(f"{method}Request") for method in METHODS}
_RESPONSES: Final = {method: message_class(f"{method}Response") for method in METHODS}
Answer = Callable[[GrpcCall, Any], Any]
"""From a call and its message, the members of the answer. Raises ServingError."""


class OipService:
    """Takes the calls of some models. models: by name, each with what takes its calls. is_ready: of the worker."""

    def __init__(self, models: Mapping[str, tuple[OipModel, CallEndpoint]], is_ready: Callable[[], bool]) -> None:
        self._models = models
        self._readers = {name: GrpcReader(model) for name, (model, _) in models.items()}
        self._is_ready = is_ready

    def service(self) -> Service:
        """Return the service."""
        told: dict[str, Answer] = {
            "ServerLive": lambda call, message: {"live": True},
            "ServerReady": lambda call, message: {"ready": self._is_ready()},
            "ModelReady": self._ready,
            "ServerMetadata": lambda call, message: server_metadata(),
            "ModelMetadata": self._metadata,
        }
        methods = {name: _Told(name, answer).take for name, answer in told.items()}
        return Service(SERVICE, {**methods, "ModelInfer": self._infer}, files=(FILE,))

    def _infer(self, call: GrpcCall, body: bytes) -> Outcome:
        """Have a model's endpoint take a call; it reads the tensors once the call is admitted.

        Who calls is looked at before the message is: its form alone may take tens of milliseconds a megabyte.
        """
        try:
            call.known()
            check_extent(body)
            message = _read("ModelInfer", body)
            model, endpoint = self._model(call, message.model_name, message.model_version)
        except ServingError as error:
            call.desk.count_failure(type(error))
            return error.bare()
        call.codec = GrpcAsked(self._readers[model.name], message, body)
        return call.accept(endpoint, b"")

    def _metadata(self, call: GrpcCall, message: Any) -> dict[str, Any]:
        """Return what is said of a model; its messages have no place for parameters of tensors."""
        told = model_metadata(self._model(call, message.name, message.version)[0])
        for tensor in told["inputs"]:
            tensor.pop("parameters", None)
        return told

    def _ready(self, call: GrpcCall, message: Any) -> dict[str, Any]:
        """Return whether a model takes calls; one that is not there takes none."""
        try:
            self._model(call, message.name, message.version)
        except NotFoundError:
            return {"ready": False}
        return {"ready": self._is_ready()}

    def _model(self, call: GrpcCall, name: str, version: str) -> tuple[OipModel, CallEndpoint]:
        """Return a model and what takes its calls. Raises NotFoundError, or UnauthorizedError where a key is needed.

        Which models there are is told to who has a key, whatever it opens; calls are taken by the endpoint's own.
        """
        found = self._models.get(name)
        call.known()
        if found is None:
            known = ", ".join(self._models)
            raise NotFoundError(f"no such model: {name[:40]!r}", next=f"the models are {known}")
        if version not in ("", found[0].version):
            raise NotFoundError(f"no such version: {version[:40]!r}", next=f"the version is {found[0].version}")
        return found


class _Told:
    """A method that is answered at once."""

    def __init__(self, method: str, answer: Answer) -> None:
        self._method = method
        self._answer = answer

    def take(self, call: GrpcCall, body: bytes) -> Outcome:
        """Answer a call."""
        try:
            told = self._answer(call, _read(self._method, body))
        except ServingError as error:
            call.desk.count_failure(type(error))
            return error.bare()
        return bytes(_RESPONSES[self._method](**told).SerializeToString())


def _read(method: str, body: bytes) -> Any:
    """Return a method's message. Raises MalformedBodyError."""
    try:
        return _REQUESTS[method].FromString(body)
    except DecodeError:
        raise MalformedBodyError(f"the message is no {method}Request", next="see the protocol's .proto") from None
