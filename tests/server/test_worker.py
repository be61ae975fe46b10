"""What a worker does once a second: it tells of faults and of its load, and collects garbage."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import READY_S_MAX, connect, fetch, message, serving, start_serve, wait_for
from structlog.testing import capture_logs

import tailrace as tr
from inference.tree_models import draw_forest, package_forest
from tailrace.batch import Degraded
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.errors import StoreError
from tailrace.features.stores.memory import MemoryStore
from tailrace.inference.backends.bitvector import LIBRARY
from tailrace.loadtest.processes import is_running
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.server.collection import BUSY_SWEEPS_MAX, COLLECTION_SWEEPS, Collection
from tailrace.server.declared import shape_of
from tailrace.server.fault_log import QUIET_S, FaultLog
from tailrace.server.logging import logger
from tailrace.testing import TestClient

MARKS_NS = [0, 1, 2, 3, 4, 5]


def test_fault_is_told_as_it_begins_and_when_it_is_over(pipelines_dir: Path) -> None:
    """Degraded answers give one line for each reason however many they are, and one after ten seconds without any."""
    (pipeline,) = load_pipelines(pipelines_dir / "faulted.py")
    plan = compile_plan(pipeline, MemoryStore())
    recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)])), pipeline.name)

    def degrade(reason: Degraded) -> None:
        recorder.count_batch(MARKS_NS, MARKS_NS[-1], [0, 0], 2, np.array([0, reason], np.uint8))

    told: list[Any]
    with capture_logs() as told:
        degrade(Degraded.STORE_ERROR)  # by the worker before
        faults = FaultLog(plan, recorder, logger())
        faults.look()
        assert not told
        plan.features.retrieval.failure = StoreError("cannot be read")
        for _ in range(3):
            degrade(Degraded.STORE_ERROR)
            faults.look()
        degrade(Degraded.STALE_FEATURES)
        for _ in range(QUIET_S + 3):
            faults.look()
    assert [(line["event"], line["reason"], line["pipeline"]) for line in told] == [
        ("answers degraded", "store_error", "faulted"),
        ("answers degraded", "stale_features", "faulted"),
        ("answers no longer degraded", "store_error", "faulted"),
        ("answers no longer degraded", "stale_features", "faulted"),
    ]
    assert (told[0]["error"], told[1]["error"]) == ("cannot be read", None)


def test_store_that_failed_at_warm_up_is_told(pipelines_dir: Path) -> None:
    """A server starts without its Redis, and says so."""
    (pipeline,) = load_pipelines(pipelines_dir / "faulted.py")
    plan = compile_plan(pipeline, MemoryStore())
    plan.features.retrieval.failure = ConnectionError("refused")
    recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)])), pipeline.name)
    with capture_logs() as told:
        FaultLog(plan, recorder, logger())
    assert [(line["event"], line["error"]) for line in told] == [("store does not answer", "refused")]


class Amount(tr.Request):
    """A request."""

    amount: float


class Score(tr.Response):
    """Its score."""

    score: float


class Choosy:
    """Scores amounts but 13."""

    def predict(self, feeds: Any) -> Any:
        """Return the amounts."""
        if (feeds["features"] == 13).any():
            raise ValueError("no luck")
        return feeds["features"][:, 0]


def test_why_a_model_fails_is_told_with_its_name() -> None:
    """The line says what the model raised, and nothing of one that failed long ago and does not now."""
    remote = tr.RemoteModel(
        "far", url="http://127.0.0.1:1/v2/models/far", inputs=[tr.RemoteInput("x", "float32")], output="s"
    )  # fmt: skip
    choosy = tr.PythonModel("choosy", Choosy, fallback=tr.Constant(0.9))
    pipeline = tr.Pipeline(
        name="amounts", request=Amount, response=Score, features=[Amount.amount], budget=tr.Budget("2s"),
        model=tr.Cascade("both", choosy, remote, unsure=(0.1, 0.5)),
    )  # fmt: skip
    recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)])), pipeline.name)

    def degrade() -> None:
        recorder.count_batch(MARKS_NS, MARKS_NS[-1], [0, 0], 2, np.array([0, Degraded.MODEL_ERROR], np.uint8))

    told: list[Any]
    with capture_logs() as told, TestClient(pipeline) as client:
        faults = FaultLog(client.plan, recorder, logger())
        assert client.predict({"amount": 0.3})["score"] == pytest.approx(0.3)  # the server is asked, and not there
        for amount in (None, 13.0):
            degrade()
            for _ in range(QUIET_S + 1):
                faults.look()
            if amount is not None:
                client.predict({"amount": amount})  # the first model fails, so that the server is asked too
        degrade()
        faults.look()
    first, second, third = [line["error"] for line in told if line["event"] == "answers degraded"]
    assert first.startswith("far: ")
    assert second is None
    assert third.startswith("choosy: ValueError: no luck; far: ")


def test_calls_in_flight_are_told_though_no_look_finds_them(tmp_path: Path, pipelines_dir: Path) -> None:
    """Between ticks an inline pipeline has no call in flight; the gauge tells the most of the last second."""
    call = message("/v1/pipelines/log/predict", b'{"amount": 1.0}')
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server, connect(server.url) as sock:
        sock.sendall(call * 40)
        wait_for(lambda: server.metric("tailrace_in_flight") >= 30, 10)
        wait_for(lambda: server.metric("tailrace_in_flight") == 0, 10)


TREES = '''
"""Trees over four numbers."""
import tailrace as tr

class Row(tr.Request):
    f0: float
    f1: float
    f2: float
    f3: float

class Score(tr.Response):
    score: float

trees = tr.Pipeline(
    name="trees", request=Row, response=Score, features=[Row.f0, Row.f1, Row.f2, Row.f3],
    model=tr.Model("trees", path="model"), budget=tr.Budget("50ms"),
)
'''


@pytest.mark.skipif(not LIBRARY.is_file(), reason="the bit-vector library was not compiled")
def test_status_names_the_backend_of_each_model(tmp_path: Path, pipelines_dir: Path) -> None:
    """Which backend computes a model is seen from outside, with the reason where it is not the bit vectors."""
    package_forest(draw_forest(0, features=4, trees=50, leaves=16), tmp_path)
    (tmp_path / "trees.py").write_text(TREES)
    with serving(tmp_path / "log", tmp_path / "trees.py", str(pipelines_dir / "log.py")) as server:
        status = json.loads(fetch(f"{server.admin}/status")[2])
    (release,) = status["releases"]
    warm_up = {model["name"]: model for each in release["pipelines"] for model in each["models"]}
    assert (warm_up["trees"]["backend"], warm_up["trees"]["backend_reason"]) == ("bit vectors", "")
    assert warm_up["log"]["backend"] == "ONNX Runtime"
    assert "does not fit" in warm_up["log"]["backend_reason"]


def test_garbage_of_a_busy_worker_is_collected_young() -> None:
    """While batches run every second there is no full collection but one in ten minutes."""
    collection = Collection()
    collected = [collection.sweep(is_idle=False) for _ in range(BUSY_SWEEPS_MAX)]
    assert collected.count(2) == 1
    assert collected[-1] == 2
    assert collected.count(0) == BUSY_SWEEPS_MAX // COLLECTION_SWEEPS - 1


def test_garbage_of_an_idle_worker_is_collected_in_full() -> None:
    """When idle the young garbage goes each second, and all of it every half minute; also soon after a busy time."""
    collection = Collection()
    collected = [collection.sweep(is_idle=True) for _ in range(2 * COLLECTION_SWEEPS)]
    assert collected == ([0] * (COLLECTION_SWEEPS - 1) + [2]) * 2
    for _ in range(COLLECTION_SWEEPS):
        collection.sweep(is_idle=False)
    assert collection.sweep(is_idle=True) == 2


def test_worker_whose_supervisor_was_killed_while_it_loaded_never_listens(tmp_path: Path, pipelines_dir: Path) -> None:
    """Its port may be another server's by then, whose traffic it would share."""
    folder = shutil.copytree(pipelines_dir, tmp_path / "pipelines")
    (tmp_path / "hold").touch()
    (folder / "slow.py").write_text(
        "import time, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'loading')!r}).touch()\n"
        f"while pathlib.Path({str(tmp_path / 'hold')!r}).exists(): time.sleep(0.01)\n"
        "from log import log\n"
    )
    orphaned = start_serve(tmp_path / "log", folder / "slow.py")
    try:
        wait_for((tmp_path / "loading").exists, READY_S_MAX)
        orphaned.process.kill()
        orphaned.process.wait()
        (orphan,) = orphaned.processes()
        (tmp_path / "hold").unlink()
        listened = False
        while is_running(orphan):
            listened = listened or is_listening(orphan)
        assert not listened
    finally:
        (tmp_path / "hold").unlink(missing_ok=True)
        orphaned.end()


def is_listening(pid: int) -> bool:
    """Say whether a process holds a TCP socket that listens."""
    try:
        held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == "0A" and f"socket:[{line[9]}]" in held for line in lines)
