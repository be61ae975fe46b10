"""Opens the limits of a worker: which there are, and with whom it shares them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from tailrace.deadline import Clock
from tailrace.monitor.counts.limit import LimitCounts
from tailrace.pipeline import Pipeline
from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Lender
from tailrace.server.limiting.host_table import HostAccount, HostTable
from tailrace.server.limiting.limiter import Declared, LenderMaker, Limiter
from tailrace.server.options import ServeOptions


def open_limiter(
    declared: Sequence[Pipeline], options: ServeOptions, table_fd: int, clock: Clock, counts: LimitCounts
) -> Limiter:
    """Return what holds the callers of some pipelines to their limits.

    table_fd: of the file that the workers of a server share; -1 for one alone. With Redis, leases are renewed on the
    running loop from now on.
    """
    limits = {f"pipelines/{each.name}": Declared(each.limit, each.limit_per_key) for each in declared}
    return Limiter(limits, clock, counts, _lender_of(options, table_fd, clock, counts), options.workers,
                   asyncio.get_running_loop())  # fmt: skip


def _lender_of(options: ServeOptions, table_fd: int, clock: Clock, counts: LimitCounts) -> LenderMaker | None:
    """Return who lends tokens to this worker; None where it has its own."""
    if options.limits_redis is not None:
        from tailrace.server.limiting.redis_lender import Leases

        leases = Leases(options.limits_redis, uuid4().hex, clock, options.workers, counts.count_lease_failure)
        leases.begin()
        return leases.account
    if table_fd < 0:
        return None
    table = HostTable(table_fd)

    def lender(name: str, limit: Limit) -> Lender:
        return HostAccount(name, limit, table, clock)

    return lender
