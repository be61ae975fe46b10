from __future__ import annotations

from typing import Any

from tailrace.deadline import Budget
from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.client import RemoteClient
from tailrace.inference.remote.failure import RemoteFault
from tailrace.inference.remote.oip import OipProtocol
from tailrace.inference.remote.pool import RemotePool
from tailrace.inference.remote.protocol import RemoteSignature, RemoteTarget
from tailrace.inference.remote.stage import RemoteStage
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.monitor.counts.remote import RemoteCounts
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import REMOTE_FAULTS
from tailrace.monitor.shared import MetricBlock
from tailrace.testing import ManualClock


def remote_stage(clock: ManualClock) -> RemoteStage:
    """Return a stage that is asked nothing."""
    address = RemoteAddress.parse("http://localhost:1/v2/models/far")
    signature = Signature((TensorSpec("x", "float32", ("a",)),), "score", 0)
    protocol = OipProtocol(RemoteTarget(address.path, "far", ""), RemoteSignature(signature))
    pool = RemotePool(address, connections_max=1, body_bytes_max=1)
    return RemoteStage("far", signature, [], RemoteClient(address, protocol, pool, clock), clock, budget=Budget("1s"))


def test_counts_follow_a_remote_model() -> None:
    """Times are counted with each call; failures and the breaker's state at each look; the warm-up's never."""
    clock = ManualClock()
    stage = remote_stage(clock)
    stage.client.failures[RemoteFault.LATE] = 5  # before there was anyone to count
    block = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"), remote=("far",))]))
    counts = RemoteCounts(block, "fraud", stage)

    def value(name: str, *labels: str) -> Any:
        return merge_blocks([block]).value(f"tailrace_remote_{name}", "fraud", "far", *labels)

    counts.look()
    assert [value("failures_total", fault) for fault in REMOTE_FAULTS] == [0] * len(RemoteFault)
    stage.client.observe_call(2_000_000)
    stage.client.failures[RemoteFault.FOREIGN] += 2
    for _ in range(3):
        stage.client.note_refused()
    counts.look()
    counts.look()
    assert value("failures_total", "foreign") == 2
    assert value("failures_total", "late") == 0
    assert value("breaker_openings_total") == value("breaker_open") == 1
    assert value("connections") == 0
    stage.client.pool.traffic.sent += 300
    counts.look()
    assert (value("bytes_total", "sent"), value("bytes_total", "received")) == (300, 0)
    assert merge_blocks([block]).histogram("tailrace_remote_seconds", "fraud", "far").count == 1
