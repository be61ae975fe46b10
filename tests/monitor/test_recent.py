"""Latencies over the last minute and the last ten."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tailrace.deadline import NS_PER_S, Budget
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import Merger
from tailrace.monitor.recent import Quantiles, Recent
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock, OwnedBlock

MS = 1_000_000
SHAPE = PipelineShape("fraud", Budget("50ms"), ("Profile", "Item", "Category"), remote=("judge",), hops=(0, 0, 1))


class World:
    """One worker's block, merged by the second."""

    def __init__(self, release: str = "r1") -> None:
        self.owned = OwnedBlock("worker-0")
        self.merger = Merger([self.owned])
        self.recent = Recent()
        self.at_s = 0
        self.release(release)

    def release(self, name: str, shape: PipelineShape = SHAPE) -> None:
        """Have the worker begin anew with a release."""
        self.block = MetricBlock.create(worker_layout([shape], 0, name), self.owned.fd)
        self.recorder = BatchRecorder(self.block, "fraud")

    def take(self, times_ms: list[float]) -> None:
        """Count a batch of calls that took so long; all of the batch's time is in the inference."""
        end_ns = 10**12
        longest_ns = int(max(times_ms) * MS)
        marks = [end_ns - longest_ns] * 3 + [end_ns] * 3
        self.recorder.count_batch(marks, end_ns, [end_ns - int(each * MS) for each in times_ms], len(times_ms))

    def turn(self, seconds: int = 1) -> None:
        """Let seconds go by."""
        for _ in range(seconds):
            self.at_s += 1
            self.recent.add(self.merger.merge(at_ns=self.at_s * NS_PER_S))


def test_quantiles_are_of_the_span() -> None:
    """What is over a minute old is in ten minutes' figures alone, and what is over ten in none."""
    world = World()
    world.take([20.0] * 100)
    world.turn(61)
    world.take([2.0] * 50)
    world.turn()
    latencies = world.recent.latencies()
    minute, ten = (latencies[span]["fraud"].whole for span in ("1m", "10m"))
    assert (minute.count, ten.count) == (50, 150)
    assert minute.p99_ns == pytest.approx(2 * MS, rel=0.01)
    assert ten.p50_ns == pytest.approx(20 * MS, rel=0.01)
    world.turn(661)
    assert world.recent.latencies()["10m"]["fraud"].whole == Quantiles(0)


def test_quantiles_are_within_a_percent_of_the_exact_ones() -> None:
    """p50, p95 and p99 of random times, over many batches."""
    world, rng = World(), np.random.default_rng(12)
    times = rng.lognormal(1.0, 0.8, 4_000)
    for part in np.array_split(times, 100):
        world.take(part.tolist())
        if len(part) % 3:
            world.turn()
    world.turn()
    told = world.recent.latencies()["10m"]["fraud"].whole
    exact = np.quantile((times * MS).astype(np.int64), [0.5, 0.95, 0.99], method="inverted_cdf")
    assert [told.p50_ns, told.p95_ns, told.p99_ns] == pytest.approx(exact.tolist(), rel=0.01)


def test_views_have_the_times_of_the_fetch_that_reads_them() -> None:
    """The views of one hop share a fetch; the store has those of all hops."""
    world = World()
    for _ in range(9):
        world.recorder.hop_of("Profile").count_fetch(1 * MS, is_late=False)
    world.recorder.hop_of("Category").count_fetch(4 * MS, is_late=False)
    world.turn()
    told = world.recent.latencies()["1m"]["fraud"]
    assert {view: each.count for view, each in told.views.items()} == {"Profile": 9, "Item": 9, "Category": 1}
    assert told.views["Category"].p50_ns == pytest.approx(4 * MS, rel=0.01)
    assert told.store.count == 10


def test_one_hop_is_counted_once_and_told_of_all_its_views() -> None:
    """A pipeline that reads its views together has one histogram for them all."""
    world = World()
    world.release("r1", PipelineShape("fraud", Budget("50ms"), ("Profile", "Item")))
    world.recorder.count_fetch(3 * MS, is_late=False)
    world.turn()
    told = world.recent.latencies()["1m"]["fraud"]
    assert told.views["Profile"] == told.views["Item"] == told.store
    assert told.store.count == 1


def test_release_takes_over_what_was_counted_before() -> None:
    """The figures of the pipeline go on; each release has its own."""
    world = World("r1")
    world.take([8.0] * 30)
    world.turn()
    world.release("r2")
    world.take([4.0] * 10)
    world.turn()
    told = world.recent.latencies()["1m"]["fraud"]
    assert told.whole.count == told.layers["inference"].count == 40
    assert {name: each.count for name, each in told.releases.items()} == {"r2": 10}
    assert told.releases["r2"].p95_ns == pytest.approx(4 * MS, rel=0.01)


def test_another_budget_makes_no_news_of_what_is_old() -> None:
    """A release with another budget has other edges: the history that moves to them did not come in this second."""
    world = World("r1")
    world.take([8.0] * 5_000)
    world.turn(700)
    world.release("r2", PipelineShape("fraud", Budget("60ms"), SHAPE.views, remote=SHAPE.remote, hops=SHAPE.hops))
    world.take([20.0] * 10)
    world.turn()
    told = world.recent.latencies()["1m"]["fraud"]
    assert told.whole.count == told.layers["inference"].count == 10
    assert told.whole.p50_ns == pytest.approx(20 * MS, rel=0.01)


def test_nothing_is_made_up_before_there_is_something() -> None:
    """No worker has written anything yet: there are no pipelines."""
    recent = Recent()
    assert recent.latencies() == {}
    recent.add(Merger([OwnedBlock("empty")]).merge(at_ns=1))
    assert recent.latencies() == {}


def test_memory_is_constant() -> None:
    """An hour takes what ten minutes do."""
    tracemalloc.start()
    world = World()
    for _ in range(70):
        world.take([5.0] * 3)
        world.turn()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        world.at_s += 20
        world.take([5.0] * 3)
        world.turn()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
