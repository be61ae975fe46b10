"""What a worker makes of a declared pipeline: its series, its counters, and what is told of its release."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

import tailrace as tr
from inference.protocol_server import ProtocolServer
from tailrace.batch import Batch, Call
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.engine import answer
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.merged import MergedMetrics
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.shared import MetricBlock
from tailrace.release.pinned import PinnedModel, Release
from tailrace.release.remotes import describe_remotes
from tailrace.server.control import ReleasedModel
from tailrace.server.declared import shape_of
from tailrace.server.logging import logger
from tailrace.server.options import ServeOptions
from tailrace.server.released import released_pipelines
from tailrace.server.served import ServedPipelines


class Job(tr.Request):
    work: float


class Level(tr.Response):
    score: float


class Blocking:
    """Scores by the work, on the inference thread."""

    blocks = True

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the work as it is."""
        return feeds["features"][:, 0]


CASCADE = tr.Pipeline(
    name="pair", request=Job, response=Level, features=[Job.work], budget=tr.Budget("2s"),
    model=tr.Cascade("both", cheap=tr.PythonModel("cheap", Blocking), expensive=tr.PythonModel("dear", Blocking),
                     unsure=(0.4, 0.6)),
)  # fmt: skip


async def counted(pipeline: tr.Pipeline, works: list[float]) -> MergedMetrics:
    """Serve a pipeline as a worker does, without its sockets; return what it counts of one batch."""
    clock, block = MonotonicClock(), MetricBlock.create(worker_layout([shape_of(pipeline)]))
    release = Release(id="r", models=(), schemas={pipeline.name: ""})
    load = LoopLoad(asyncio.get_running_loop())
    every = ServedPipelines(release, ServeOptions(files=()), block, load, clock, logger(), is_successor=False)
    served = await every.add(pipeline)
    now_ns = clock.now_ns()
    deadline_ns = now_ns + 10 * NS_PER_S
    calls = [Call(cast(Any, None), None, Job(work), now_ns, deadline_ns, 1) for work in works]
    await answer(served.plan, Batch(calls, now_ns, deadline_ns, suspends=True), clock.now_ns)
    every.close()
    return merge_blocks([block])


def test_batches_of_two_heavy_models_are_counted_apart() -> None:
    """The cheap model of a cascade is asked for all rows, the expensive one for the unsure ones alone."""
    metrics = asyncio.run(counted(CASCADE, [0.1, 0.5, 0.5, 0.9]))
    for model, rows in (("cheap", 4), ("dear", 2)):
        assert metrics.value("tailrace_model_batches_total", "pair", model, "idle") == 1
        assert metrics.histogram("tailrace_model_batch_rows", "pair", model).sum == rows
        assert metrics.histogram("tailrace_model_wait_seconds", "pair", model).count == 1


def test_series_are_of_the_models_that_are_computed_here() -> None:
    """Packaged and Python ones, also those that others fall back to; a remote one has series of its own."""
    far = tr.RemoteModel("far", url="http://localhost:1/v2/models/far", fallback=tr.Model("near"))
    packaged = tr.Model("packaged", fallback=tr.Model("spare", fallback=tr.Constant(0.0)))
    model = tr.Ensemble("all", [far, packaged, tr.PythonModel("own", Blocking)])
    pipeline = tr.Pipeline(name="all", request=Job, response=Level, features=[Job.work], model=model,
                           budget=tr.Budget("2s"))  # fmt: skip
    shape = shape_of(pipeline)
    assert (set(shape.models), shape.remote) == ({"near", "packaged", "spare", "own"}, ("far",))


def test_release_tells_of_every_model() -> None:
    """Packaged, Python's, and of another server with the version that it said; one that stands twice is told once."""
    with ProtocolServer(width=1) as server:
        near = tr.Model("near", fallback=tr.Constant(0.0))
        unversioned = tr.RemoteModel("far", url=server.url().removesuffix("/versions/3"), fallback=near)
        served = tr.RemoteModel("tf", url=server.url("tensorflow"))
        model = tr.Ensemble("all", [unversioned, served, tr.PythonModel("own", Blocking), near])
        pipeline = tr.Pipeline(name="all", request=Job, response=Level, features=[Job.work], model=model,
                               budget=tr.Budget("2s"))  # fmt: skip
        remotes = tuple(describe_remotes([pipeline]))
    pinned = PinnedModel(pipeline="all", name="near", version="abc", directory="/d", copy="/c", backend="ONNX Runtime",
                         backend_reason="no trees", registered="fraud@3", registered_digest="d1")  # fmt: skip
    release = Release(id="r", models=(pinned, pinned), schemas={"all": "s"}, remotes=remotes)
    (told,) = released_pipelines(release, [pipeline])
    assert (told.name, told.schema) == ("all", "s")
    assert told.models == (
        ReleasedModel("far", "3", "oip"),
        ReleasedModel("near", "abc", "ONNX Runtime", "no trees", "fraud@3", "d1"),
        ReleasedModel("tf", "3", "tensorflow"), ReleasedModel("own", "", "Python"),
    )  # fmt: skip


def test_remote_model_of_which_nobody_knows_the_version_is_told() -> None:
    """A server that could not be asked when the release was made: the model is there, without a version."""
    far = tr.RemoteModel("far", url="http://localhost:1/v2/models/far", inputs=[tr.RemoteInput("x")], output="y")
    pipeline = tr.Pipeline(name="all", request=Job, response=Level, features=[Job.work], model=far,
                           budget=tr.Budget("2s"))  # fmt: skip
    (told,) = released_pipelines(Release(id="r", models=(), schemas={"all": "s"}), [pipeline])
    assert told.models == (ReleasedModel("far", "", "oip"),)
