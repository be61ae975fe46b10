from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import structlog

import tailrace as tr
from inference.composition.members import Payment
from tailrace.batch import Batch
from tailrace.errors import CompileError
from tailrace.monitor.branch_recorder import BranchRecorder
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter, read_samples
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.server.declared import branches_of, shape_of
from tailrace.testing import ManualClock, TestClient

Members = Callable[..., tr.Model]


class Variant(tr.Response):
    score: float
    variant: Literal["a", "b"]


class Variants(tr.Response):
    variant: str


@pytest.fixture
def pipeline(members: Members) -> Pipeline:
    """Return a split of a model and a cascade."""
    deep = tr.Cascade("deep", members("low"), members("high"), unsure=(0.15, 1.0))
    other = tr.Model("other", path=members("low").path)
    stage = tr.Split("test", {"a": deep, "b": other}, by=Payment.customer_id, shares={"a": 0.5, "b": 0.5})
    return tr.Pipeline(name="fraud", request=Payment, response=Variant, features=[Payment.amount], model=stage,
                       budget=tr.Budget("100ms"))  # fmt: skip


@pytest.fixture
def served(pipeline: Pipeline) -> Iterator[tuple[Pipeline, TestClient, Batch]]:
    """Yield it with a client, and a batch of ten customers with amounts of 10 and 20."""
    with TestClient(pipeline) as client:
        requests = [{"amount": 10 + 10 * (each % 2), "customer_id": each} for each in range(10)]
        yield pipeline, client, client.run([msgspec.json.encode(request) for request in requests])


def test_response_says_the_variant(served: tuple[Pipeline, TestClient, Batch]) -> None:
    """That the row got, beside others as alone."""
    _, client, batch = served
    assert batch.branches is not None
    told = [json.loads(body)["variant"] for body in batch.bodies]
    assert told == ["ab"[place] for place in batch.branches["test"].tolist()]
    assert set(told) == {"a", "b"}
    assert client.predict({"amount": 1, "customer_id": 3})["variant"] == told[3]


def test_variants_of_nested_splits_are_joined(pipeline: Pipeline, members: Members) -> None:
    """A row that came to one split alone has its variant alone."""
    third = tr.Model("third", path=members("low").path)
    outer = tr.Split("outer", {"old": third, "new": pipeline.model}, by=Payment.customer_id,
                     shares={"old": 0.5, "new": 0.5})  # fmt: skip
    with TestClient(replace(pipeline, model=outer, response=Variants)) as client:
        batch = client.run([msgspec.json.encode({"amount": 1, "customer_id": each}) for each in range(40)])
    assert {json.loads(body)["variant"] for body in batch.bodies} == {"old", "new/a", "new/b"}


def test_variant_that_the_response_cannot_hold_is_told(pipeline: Pipeline, members: Members) -> None:
    """As for a decision; and without a split there is no variant."""
    stage = tr.Split("t", {"a": members("low"), "c": members("high")}, by=Payment.channel, shares={"a": 1, "c": 0})
    with pytest.raises(CompileError, match="variant can be c"):
        TestClient(replace(pipeline, model=stage))
    with pytest.raises(CompileError, match="nothing gives this field"):
        TestClient(replace(pipeline, model=members("low")))


def test_rows_of_each_branch_are_counted(served: tuple[Pipeline, TestClient, Batch]) -> None:
    """Of a split and of the cascade within it, whose other rows are counted nowhere."""
    pipeline, _, batch = served
    block = MetricBlock.create(worker_layout([shape_of(pipeline)]))
    recorder = BranchRecorder(block, "fraud", branches_of(pipeline))
    recorder.record(batch, 0)
    recorder.record(replaced(batch), 0)

    def counted(stage: str, branch: str) -> int:
        return block.cells[block.find("tailrace_branch_rows_total", "fraud", stage, branch).offset]

    assert batch.branches is not None
    split, cascade = (batch.branches[name].tolist() for name in ("test", "deep"))
    assert [counted("test", "a"), counted("test", "b")] == [split.count(0), split.count(1)]
    assert [counted("deep", "cheap"), counted("deep", "expensive")] == [cascade.count(0), cascade.count(1)]
    assert counted("deep", "cheap") + counted("deep", "expensive") == counted("test", "a")


def replaced(batch: Batch) -> Batch:
    """Return the same batch as one that broke off in its last layer, and is answered again."""
    broken: Any = msgspec.structs.replace(batch, marks_ns=batch.marks_ns[:-1])
    assert isinstance(broken, Batch)
    return broken


def test_sample_says_the_branches(served: tuple[Pipeline, TestClient, Batch], tmp_path: Path) -> None:
    """By their names; null for a stage that a row did not come to."""
    pipeline, _, batch = served
    writer = SampleWriter(tmp_path / "samples.jsonl", structlog.get_logger())
    Sampler(pipeline, "r1", writer, ManualClock()).record(batch, 0)
    writer.close()
    found = list(read_samples([tmp_path / "samples.jsonl"]))
    told = [json.loads(body)["variant"] for body in batch.bodies]
    assert [each.branches["test"] for each in found if each is not None] == told
    assert {each.branches["deep"] for each in found if each is not None and each.branches["test"] == "b"} == {None}
