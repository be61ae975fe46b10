"""The benchmark of tensors reads what it says: the same requests in each way."""

from __future__ import annotations

import random

import pytest

import front_door_oip
from front_door_codecs import Numbers, request_of


@pytest.mark.parametrize("rows", [1, 3])
def test_ways_are_of_the_same_requests(rows: int) -> None:
    """Each way has its time, once all have been read alike."""
    draw = random.Random(1)
    found = front_door_oip.measure_rows([request_of(Numbers, draw) for _ in range(rows)], rounds=1, calls=1)
    assert found.keys() == {"json", "oip_json", "oip_bytes"}
    assert min(found.values()) > 0
