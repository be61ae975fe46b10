"""A pipeline whose model is another server's pipeline, asked by the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import log
from typing import Any

import pytest
from http_server import RELEASE, RunningServer, ample

import tailrace as tr
from tailrace.errors import CompileError
from tailrace.inference.remote.stage import remote_stages
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient


class Sum(tr.Request):
    amount: float
    label: str = "a"


class Scored(tr.Response):
    score: float


@pytest.fixture(scope="module")
def url(pipeline_of: Callable[[str], Pipeline]) -> Iterator[str]:
    """Serve the pipeline `log`; return where its model is."""
    with RunningServer([ample(pipeline_of("log"))]) as server:
        host, port = server.address
        yield f"http://{host}:{port}/v2/models/log"


def asking(url: str, **more: Any) -> Pipeline:
    """Return a pipeline that asks it."""
    model = tr.RemoteModel("log", url=url, output="score", fallback=tr.Constant(9.0), **more)
    return tr.Pipeline(
        name="asks",
        request=Sum,
        response=Scored,
        features=[Sum.amount, Sum.label],
        model=model,
        budget=tr.Budget("20s"),
    )


def test_pipeline_is_the_model_of_another(url: str) -> None:
    """Rows go in bytes to the version that was named, and come back as scores; a row that has none falls back."""
    with TestClient(asking(f"{url}/versions/{RELEASE}")) as client:
        assert client.predict({"amount": 4.0})["score"] == pytest.approx(log(4.0), abs=1e-6)
        many = client.predict([{"amount": each} for each in (1.0, 2.0, 3.0)])
        assert [each["score"] for each in many] == pytest.approx([log(1.0), log(2.0), log(3.0)], abs=1e-6)
        assert client.predict({"amount": -1.0})["score"] == 9.0
        (stage,) = remote_stages(client.plan.inference.stage)
        assert stage.client.protocol.takes_nan  # which is so of bytes alone


def test_input_with_a_default_may_be_left_out(url: str) -> None:
    """The metadata say so: a pipeline without a feature for it asks without it, and one that lacks another is told."""
    with TestClient(replace(asking(url), features=[Sum.amount])) as client:
        assert client.predict({"amount": 4.0})["score"] == pytest.approx(log(4.0), abs=1e-6)
        (stage,) = remote_stages(client.plan.inference.stage)
        assert [spec.name for spec in stage.client.protocol._signature.inputs] == ["amount"]
    with pytest.raises(CompileError, match="amount"):
        TestClient(replace(asking(url), features=[Sum.label]))
