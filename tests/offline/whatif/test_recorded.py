"""Samples of many kinds of pipelines: what they were scored with is what they are scored with again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

import tailrace as tr
from tailrace.batch import Provenance
from tailrace.compile.compiler import compile_plan
from tailrace.compile.samples import Samples
from tailrace.deadline import LAYERS, NS_PER_S, MonotonicClock
from tailrace.features.stores.memory import MemoryStore
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.offline.whatif.replay import Asking, what_if
from tailrace.offline.whatif.sides import Side
from tailrace.pipeline import Pipeline


def serve(pipeline: Pipeline, path: Path) -> NDArray[np.float64]:
    """Score made-up requests with made-up features, sample them, and return the scores."""
    clock = MonotonicClock()
    plan, random = compile_plan(pipeline, MemoryStore(), clock=clock), np.random.default_rng(0)
    samples = Samples(plan)
    now_ns = clock.now_ns()
    batch = samples.batch([samples.request(seed) for seed in (1, 2, 3)], now_ns, now_ns + 10 * NS_PER_S)

    async def score() -> None:
        plan.request.run(batch)
        await plan.features.run(batch)
        for rows, codec in zip(batch.view_rows, plan.features.codecs, strict=True):
            rows.data, rows.noted = rows.data.copy(), np.full(len(rows), Provenance.FRESH, np.uint8)
            for column in codec.spec.columns:
                if column.name in rows.strings:
                    rows.strings[column.name] = [f"text {place}" for place in range(len(rows))]
                elif column.dtype.kind in "if":
                    values = random.integers(0, 9, rows.data[column.name].shape)
                    rows.data[column.name] = values.astype(column.dtype)
        batch.views = []
        plan.features.take_views(batch, list(batch.view_rows))
        for feature in plan.features.on_demand:
            batch.on_demand[feature.name] = feature.column(batch)
        await plan.inference.run(batch)
        plan.postprocess.run(batch)
        plan.response.run(batch)

    asyncio.run(score())
    batch.marks_ns = [now_ns] * (len(LAYERS) + 1)
    writer = SampleWriter(path, structlog.get_logger())
    Sampler(pipeline, "release", writer, clock).record(batch, now_ns)
    writer.close()
    plan.close()
    return np.asarray(batch.scores, np.float64)


@pytest.mark.parametrize("name", ["payment", "ranking", "topics", "activity", "derived_ranked", "pairs_ranked"])
def test_samples_have_the_scores_that_were_served(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path, name: str
) -> None:
    """Rows a request, text, windows, derived and composite keys: each feature comes to its place, without a store."""
    pipeline = pipeline_of(name)
    if pipeline.decision is None:
        pipeline = replace(pipeline, decision=tr.bands("score", low=0.0, high=0.5))
    served = serve(pipeline, tmp_path / "samples.jsonl")
    found = what_if((Side("A", pipeline), Side("B", pipeline)), Asking(requests=tmp_path / "samples.jsonl"))
    assert found.features == "as they were served"
    assert found.rows
    np.testing.assert_allclose(found.scores.pairs[:, 0], served[: found.rows], rtol=1e-6)
    assert not found.flips
