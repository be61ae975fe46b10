"""What the observer has to show comes to the supervisor, a document a second, and no longer than one may be."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any, cast

from tailrace.monitor.drift.shown import ShownDrift
from tailrace.monitor.exemplars import Exemplar
from tailrace.monitor.observed import OBSERVED_BYTES_MAX, Observed
from tailrace.server.channel import ChildChannel, SupervisorChannel
from tailrace.server.companion_process import CompanionProcess
from tailrace.server.control import CompanionAssignment, ToCompanion
from tailrace.server.overview import OBSERVED_S, Overview


def test_document_is_told_unless_it_is_too_long() -> None:
    """A message that is longer than any may be would end the channel, and the observer with it."""
    ours, theirs = socket.socketpair()
    supervisor = SupervisorChannel(ours)
    process = CompanionProcess(
        "observer", cast(CompanionAssignment, None), ChildChannel(theirs.detach(), ToCompanion), 0
    )
    try:
        found = ShownDrift(started_s=0, ended_s=1, rows=1, learning=0, watched=0, alarmed=0, deviating=0, series=())
        assert not process.say_observed(Observed(at_s=1.0, drift={"x" * OBSERVED_BYTES_MAX: found}))
        assert process.say_observed(Observed(at_s=2.0, drift={"fraud": found}))
        told = asyncio.run(supervisor.receive())
        assert told == Observed(at_s=2.0, drift={"fraud": found})
    finally:
        supervisor.close()
        process._channel.close()


def test_document_that_is_too_long_is_told_in_part() -> None:
    """A server of many pipelines shows their drift, if not the slowest requests of each; it is not silent."""
    said: list[Observed] = []
    process = CompanionProcess("observer", cast(Any, None), cast(Any, SimpleNamespace(send=said.append)), 0)
    drift = {
        "fraud": ShownDrift(started_s=0, ended_s=1, rows=1, learning=0, watched=0, alarmed=0, deviating=0, series=())
    }
    exemplars = {"fraud": (Exemplar("0af7651916cd43dd8448eb211c80319c", 1, 1.0),)}
    assert not process.say_observed(
        Observed(at_s=1.0, drift=drift, slow={"x" * OBSERVED_BYTES_MAX: ()}, exemplars=exemplars)
    )
    assert said == [Observed(at_s=1.0, drift=drift, exemplars=exemplars)]


def test_document_of_an_observer_that_is_silent_is_not_shown() -> None:
    """Figures of ten seconds ago would be taken for those of now."""
    now_s, observed = time.monotonic(), Observed(at_s=1.0)
    child = SimpleNamespace(slot=None, block=None, is_running=True, process=SimpleNamespace(observed=None))
    overview = Overview(cast(Any, [child]), cast(Any, None), url="", is_open=lambda: True)
    assert overview.observed() is None
    child.process.observed = (now_s, observed)
    assert overview.observed() is observed
    child.process.observed = (now_s - OBSERVED_S - 1, observed)
    assert overview.observed() is None
