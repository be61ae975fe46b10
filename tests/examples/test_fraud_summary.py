"""What the demonstration prints is whole in 80 columns, which a pipe has too."""

from __future__ import annotations

import io

import numpy as np
from decisions import Decided
from rich.console import Console
from summary import show_budget, show_decisions, show_fraud

TIMING = {"count": 20_000, "budget_ns": 20_000_000, "p50_ns": 211_400, "p99_ns": 18_654_300}


def test_summary_is_whole_in_80_columns() -> None:
    """Ten times the payments of the demonstration: no cell is cut, no line broken."""
    labels = np.repeat(["allow", "review", "block"], [198_000, 800, 1_200])
    is_fraud = np.arange(len(labels)) % 120 == 0
    decided = Decided(labels, is_fraud, np.full(len(labels), 54.32), is_fraud, is_fraud, 1_234, 2e-7)
    layers = dict.fromkeys(("request", "features", "inference", "postprocess", "response"), TIMING)
    status = {"pipelines": [{"layers": layers, "whole": TIMING | {"budget_ns": 200_000_000}}]}
    paper = io.StringIO()
    console = Console(file=paper, width=80)
    show_decisions(console, decided)
    show_fraud(console, decided)
    show_budget(console, status)
    told = paper.getvalue()
    assert "…" not in told
    assert max(map(len, told.splitlines())) <= 80
    assert "but for 1,234 of 200,000" in told.replace("\n", " ")
    for whole in ("$10,755,360", "$89,628", "17 of 1,667", "100%", "211 µs", "18.7 ms", "93.3%"):
        assert whole in told, f"{whole} is not in\n{told}"
