"""Shared answers over gRPC: with callers of HTTP, and never with callers whose keys open other things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import Caller, running_grpc, wire_of  # noqa: E402
from http_server import payment_of, post  # noqa: E402

import tailrace as tr  # noqa: E402
from proto_types import compiled  # noqa: E402
from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.server.key_file import changing, make_key  # noqa: E402
from tailrace.server.keys import Keys  # noqa: E402


def kept_for_an_hour(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that keeps its answers."""
    request: Any = pipeline.request
    return wire_of(replace(pipeline, coalesce=tr.Coalesce(on=[request.amount], ttl="1h")))


def test_answer_to_a_caller_of_http_is_kept_for_one_of_grpc(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    """It is written as a message, with the caller's own field in it."""
    pipeline = kept_for_an_hour(pipeline_of("log"))
    messages = compiled(tmp_path, pipeline.request, pipeline.response, "wire")
    with running_grpc(pipeline) as server, server.channel() as channel, server.http.connect() as client:
        told = client.ask(post(payment_of(2.0, "http"), path="/v1/pipelines/wire/predict")).json
        batches = server.http.batches("wire")
        answer = Caller(channel, messages).predict(messages.Amount(amount=2.0, label="grpc"), timeout=10)
        server.http.settle()
        assert server.http.batches("wire") == batches
    assert (answer.score, answer.label, told["label"]) == (told["score"], "grpc", "http")


def test_callers_with_other_scopes_share_nothing(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> None:
    """What was computed for one key is computed anew for one that opens more."""
    pipeline, file = kept_for_an_hour(pipeline_of("log")), tmp_path / "keys"
    made = [make_key("caller", scopes) for scopes in (["pipelines/wire"], ["pipelines/wire"], ["pipelines/*"])]
    with changing(file, create=True) as known:
        known.extend(key for _, key in made)
    messages = compiled(tmp_path, pipeline.request, pipeline.response, "wire")
    keys = Keys(file, lambda kind: None)
    with running_grpc(pipeline, keys=keys) as server, server.channel() as channel:
        caller, batches = Caller(channel, messages), []
        for secret, _ in made:
            caller.predict(messages.Amount(amount=2.0), metadata=(("x-api-key", secret),), timeout=10)
            server.http.settle()
            batches.append(server.http.batches("wire"))
    assert batches == [1, 1, 2]
