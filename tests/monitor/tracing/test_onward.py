"""What a remote model is told of the trace: the span that the observer makes later."""

from __future__ import annotations

from typing import cast

import pytest

from tailrace.batch import Batch, Call, Source, Trace, Transport
from tailrace.monitor.tracing.onward import OnwardTrace
from tailrace.monitor.tracing.spans import CARRIER_CALLS_MAX, ids_of
from tailrace.testing import ManualClock

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ASKED = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
UNASKED = f"00-{TRACE}-00f067aa0ba902b7-00".encode()


class Asked(Call, gc=False, eq=False):
    """A call that has an id, and may have a trace. identified: whether its id was asked for."""

    name: bytes = b""
    parent: bytes = b""
    state: bytes = b""
    identified: bool = False

    @property
    def trace(self) -> Trace | None:
        """Its trace."""
        return Trace(self.parent, self.state) if self.parent else None

    def source(self) -> Source:
        """Return where it comes from."""
        return self.name, self.parent, b""

    def identify(self) -> str:
        """Return its id."""
        self.identified = True
        return self.name.decode()


def asked(name: str = "", parent: bytes = b"", state: bytes = b"", arrival_ns: int = 5) -> Asked:
    """Return a call."""
    return Asked(cast(Transport, None), None, None, arrival_ns, 0, 1, name.encode(), parent, state)


def lines(*calls: Asked, share: float = 0.0) -> bytes:
    """Return what is told of a batch of these."""
    return OnwardTrace(share, "far", ManualClock()).lines(Batch(calls, 0, 0))


def test_remote_model_is_told_the_span_of_what_it_is_asked() -> None:
    """In the caller's trace, with its state; the id is the one that the observer comes to."""
    ids = ids_of("r1", ASKED, 5)
    expected = f"traceparent: 00-{TRACE}-{ids.remote('far').hex()}-01\r\ntracestate: shop=1\r\n"
    assert lines(asked("r1", ASKED, b"shop=1")) == expected.encode()


def test_request_without_a_trace_has_one_by_its_id() -> None:
    """Sampled or not by the share, which the flag says; without an id there is nothing to tell."""
    ids = ids_of("r1", b"", 5)
    for share, flag in ((0.0, "00"), (1.0, "01")):
        expected = f"traceparent: 00-{ids.trace.hex()}-{ids.remote('far').hex()}-{flag}\r\n"
        assert lines(asked("r1"), share=share) == expected.encode()
    assert lines(asked(), share=1.0) == b""


@pytest.mark.parametrize("others", [1, CARRIER_CALLS_MAX - 1])
def test_batch_is_told_as_its_first_call_that_is_sampled(others: int) -> None:
    """Not as the first of all; one far behind is not looked for, and no call behind the chosen one is touched."""
    unsampled = [asked(f"r{place}", UNASKED) for place in range(others)]
    behind = asked("z", ASKED)
    told = lines(*unsampled, asked("r", ASKED), behind)
    assert ids_of("r", ASKED, 5).remote("far").hex().encode() in told
    assert not behind.identified
    far = lines(*unsampled, *(asked(f"s{place}", UNASKED) for place in range(CARRIER_CALLS_MAX)), asked("r", ASKED))
    assert ids_of("r0", UNASKED, 5).remote("far").hex().encode() in far


def test_what_was_asked_is_noted_in_the_batch() -> None:
    """Of each model, one behind the other, until now."""
    clock, batch = ManualClock(), Batch([asked("r1")], 0, 0)
    clock.advance(2)
    OnwardTrace(0.0, "far", clock).note(batch, 1_000_000, True)
    OnwardTrace(0.0, "other", clock).note(batch, 1_500_000, False)
    now_ns = clock.now_ns()
    assert batch.remote == [("far", 1_000_000, now_ns, True), ("other", 1_500_000, now_ns, False)]
