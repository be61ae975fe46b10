"""What a request costs, counted rather than timed: the instructions that Python interprets for it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from instructions import count_of
from tailrace.pipeline import Pipeline

REQUEST_INSTRUCTIONS_MAX = 370
"""Of one request beside others, from its bytes to those of its answer: 365 when this was written."""
BATCH_INSTRUCTIONS_MAX = 3_400
"""Of a batch, beside its requests': 3,396 then. A ratchet: lower both when the code does with fewer."""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions compile to other instructions")
def test_request_interprets_few_instructions(pipeline_of: Callable[[str], Pipeline]) -> None:
    """From the bytes received to the bytes written, what a request costs, and what a batch does, stays bounded."""
    counts = count_of(pipeline_of("payment"))
    assert counts.request < REQUEST_INSTRUCTIONS_MAX
    assert counts.batch < BATCH_INSTRUCTIONS_MAX
