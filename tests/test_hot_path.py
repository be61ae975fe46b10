"""What a request costs, counted rather than timed: the instructions that Python interprets for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from instructions import activity_traffic, count_of
from tailrace.features.window_kernel import LIBRARY
from tailrace.pipeline import Pipeline

REQUEST_INSTRUCTIONS_MAX = 370
"""Of one request beside others, from its bytes to those of its answer: 365 when this was written."""
BATCH_INSTRUCTIONS_MAX = 3_400
"""Of a batch, beside its requests': 3,396 then. A ratchet: lower both when the code does with fewer."""

WINDOWS_REQUEST_INSTRUCTIONS_MAX = 335
"""Of a request with three stream views of fifteen columns: 328 when this was written."""
WINDOWS_BATCH_INSTRUCTIONS_MAX = 6_700
"""Of a batch of them: 6,655 then."""

only_3_11 = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions compile to other instructions")


@only_3_11
def test_request_interprets_few_instructions(pipeline_of: Callable[[str], Pipeline]) -> None:
    """From the bytes received to the bytes written, what a request costs, and what a batch does, stays bounded."""
    counts = count_of(pipeline_of("payment"))
    assert counts.request < REQUEST_INSTRUCTIONS_MAX
    assert counts.batch < BATCH_INSTRUCTIONS_MAX


@only_3_11
@pytest.mark.skipif(not LIBRARY.is_file(), reason="the library of windows was not compiled")
def test_request_with_windows_interprets_few_instructions(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Stream views cost a batch little more than batch views do, and a request nothing in Python beyond its fields."""
    pipeline = replace(pipeline_of("activity"), record_requests=False)
    counts = count_of(pipeline, activity_traffic(pipeline))
    assert counts.request < WINDOWS_REQUEST_INSTRUCTIONS_MAX
    assert counts.batch < WINDOWS_BATCH_INSTRUCTIONS_MAX
