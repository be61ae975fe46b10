"""The typed service of a pipeline: `Predict` takes its request, `PredictMany` an array of them.

Its messages are those of `tailrace export proto`, whose bytes the pipeline's own codec reads and writes. Many requests
come in one message, not in a stream of them: they are one batch then, have one deadline, and cost one call.
"""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.codecs.proto_file import proto_files
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import fitting, lock_path
from tailrace.codecs.proto_text import SERVICE, package_of
from tailrace.codecs.protobuf import ARRAY_TAG, CONTENT_TYPES
from tailrace.errors import MalformedBodyError, ServingError
from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.entrance import Entrance
from tailrace.server.grpc.call import GrpcCall
from tailrace.server.grpc.service import Outcome, Service


class Predictor:
    """Takes the calls of one pipeline. endpoint: of the pipeline, as callers of JSON have it."""

    def __init__(self, endpoint: CallEndpoint) -> None:
        self._endpoint = endpoint.speaking(CONTENT_TYPES[0], b"", b"")

    def predict(self, call: GrpcCall, body: bytes) -> Outcome:
        """Take one request."""
        if body.startswith(ARRAY_TAG):
            return MalformedBodyError("this is an array of requests", next="send it to PredictMany")
        return call.accept(self._endpoint, body)

    def predict_many(self, call: GrpcCall, body: bytes) -> Outcome:
        """Take an array of requests; one without any has no answers."""
        if body.startswith(ARRAY_TAG):
            return call.accept(self._endpoint, body)
        if body:
            return MalformedBodyError("this is no array of requests", next="send one request to Predict")
        try:
            call.admitted(self._endpoint)
        except ServingError as fault:
            call.desk.count_failure(type(fault))
            return fault.bare()
        return b""


def predictor_of(pipeline: Pipeline, endpoint: CallEndpoint) -> Service | None:
    """Return the service of a pipeline; None where no numbers of its messages are kept.

    Raises SetupError where its types are no longer those of the numbers.
    """
    forms = message_forms(pipeline.request, pipeline.response)
    lock = fitting(forms, lock_path(pipeline.sources_dir, pipeline.name))
    if lock is None:
        return None
    files = proto_files(pipeline.name, forms, lock, pipeline.request.__name__, pipeline.response.__name__)
    taker = Predictor(endpoint)
    return Service(
        f"{package_of(pipeline.name)}.{SERVICE}",
        {"Predict": taker.predict, "PredictMany": taker.predict_many},
        files=tuple(files),
    )


def predictors(entrances: Iterable[Entrance]) -> tuple[list[Service], list[str]]:
    """Return the services of pipelines, and the names of those that have none."""
    found = {each.pipeline.name: predictor_of(each.pipeline, each.requests) for each in entrances}
    return [each for each in found.values() if each is not None], [name for name in found if found[name] is None]
