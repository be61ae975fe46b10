"""What a retrieval's cache and breaker say, in the cells of a worker."""

from __future__ import annotations

from features.view_samples import Profile
from tailrace.deadline import NS_PER_S, Budget
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.memory import MemoryStore
from tailrace.monitor.counts.retrieval import RetrievalCounts
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.merging import merge_blocks
from tailrace.monitor.metrics import RETRIEVAL_METRICS
from tailrace.monitor.shared import MetricBlock
from tailrace.testing import ManualClock


class NetworkStore(MemoryStore):
    """A store in memory that counts as far away."""

    network = True  # type: ignore[misc]


def values(block: MetricBlock) -> dict[str, int]:
    """Return what the block has of the pipeline."""
    merged = merge_blocks([block])
    return {name.removeprefix("tailrace_"): merged.value(name, "fraud") for name in RETRIEVAL_METRICS}


def test_counts_follow_the_cache_and_the_breaker() -> None:
    """Each look adds what has come since the last one, to what workers before have counted; gauges are now's."""
    block = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"))]))
    clock = ManualClock()
    limits = CacheLimits(bytes_max=10_000, ttl_ns=NS_PER_S, stale_ns=0)
    for worker in (1, 2):
        retrieval = CachedRetrieval(Retrieval([RowCodec(Profile.spec)], NetworkStore(), clock), limits)
        counts = RetrievalCounts(block, "fraud", retrieval)
        cache, breaker = retrieval.cache, retrieval.breaker
        assert breaker is not None
        cache.hits, cache.misses = 7, 2
        counts.look()
        cache.hits = 10
        cache.put(b"key", b"row", 0, NS_PER_S)
        for _ in range(3):
            breaker.note(clock.now_ns(), is_failure=True)
        for _ in range(2):
            counts.look()
        assert values(block) == {
            "store_breaker_open": 1,
            "store_breaker_openings_total": worker,
            "cache_hits_total": 10 * worker,
            "cache_misses_total": 2 * worker,
            "cache_bytes": cache.bytes,
        }


def test_counts_of_an_embedded_store_are_none() -> None:
    """It has neither cache nor breaker."""
    block = MetricBlock.create(worker_layout([PipelineShape("fraud", Budget("50ms"))]))
    RetrievalCounts(block, "fraud", Retrieval([RowCodec(Profile.spec)], MemoryStore(), ManualClock())).look()
    assert set(values(block).values()) == {0}
