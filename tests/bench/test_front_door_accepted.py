"""The figures of accepted requests: the parts that measure are real, and how they are asked for."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import run
from front_door_accepted import PIPELINE, Receiver, accepting, lines, receiving, sync_ms
from machine import BenchError
from tailrace.compile.loading import load_pipelines


def test_receiver_counts_what_it_takes_and_a_sender_that_is_refused_is_told() -> None:
    """Results on one connection; and a server that answers another status than 202."""
    before = Receiver.taken
    with receiving() as url:
        client = http.client.HTTPConnection(urlsplit(url).netloc)
        for _ in range(2):
            client.request("POST", "/results", b"{}")
            assert client.getresponse().read() == b""
        client.close()
        assert Receiver.taken == before + 2
        with pytest.raises(BenchError, match="204"):
            accept_one(url)


def accept_one(url: str) -> None:
    """Have requests accepted until the receiver has seen one."""
    before, end_s = Receiver.taken, time.monotonic() + 10
    with accepting(url):
        while Receiver.taken == before and time.monotonic() < end_s:
            time.sleep(0.001)


def test_pipeline_of_the_benchmark_declares_results() -> None:
    """Wherever the benchmark listens."""
    (pipeline,) = load_pipelines(PIPELINE)
    assert pipeline.results is not None


def test_part_is_asked_for_and_shows_its_figures(tmp_path: Path) -> None:
    """With the other parts of the front door."""
    assert "front_door_accepted" in {part.name for part in run.choose_parts("front_door")}
    figures = {
        "accepted_p50_ms": 3.6,
        "accepted_syncs": 1.4,
        "accepted_quiet_p99_ms": 1.0,
        "accepted_beside_p99_ms": 1.1,
    }
    assert [line.value for line in lines({"front_door": figures})] == list(figures.values())
    assert sync_ms(tmp_path) > 0
