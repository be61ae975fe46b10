"""The benchmark in parts: each asked for by name, its figures beside those of all others."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import run
from before import export_tree
from capacity import steady_goodput
from figures import merge_figures, read_figures, write_figures
from hot_path import lines
from machine import BenchError
from open_loop import measure_growth
from part import Line, Session
from real_clients import summarize
from recording import read_recordings
from report import print_table

ROOT = Path(__file__).parents[2]


def test_merge_keeps_what_other_parts_measured() -> None:
    """A part replaces its own figures, whole, and those of no other, also where they share a group."""
    known = {"hot_path": {"rps": 1, "real_clients": {"gone": 1, "go": 2}}, "idle_p50_us": 3, "counts": {"a": 1}}
    measured = {"hot_path": {"real_clients": {"go": 5}}, "idle_p50_us": 4}
    merged = merge_figures(known, measured)
    assert merged == {"hot_path": {"rps": 1, "real_clients": {"go": 5}}, "idle_p50_us": 4, "counts": {"a": 1}}
    assert known["hot_path"] == {"rps": 1, "real_clients": {"gone": 1, "go": 2}}


def test_figures_are_written_and_read(tmp_path: Path) -> None:
    """What was written is read again; nothing is read where nothing was written, and nonsense is refused."""
    path = tmp_path / "new" / "bench.json"
    assert read_figures(path) == {}
    write_figures({"idle_p50_us": 1.5}, path)
    assert read_figures(path) == {"idle_p50_us": 1.5}
    assert [each.name for each in path.parent.iterdir()] == ["bench.json"]
    for nonsense in ("{", "[]"):
        path.write_text(nonsense)
        with pytest.raises(BenchError, match="remove it"):
            read_figures(path)


def test_parts_are_chosen_by_name() -> None:
    """A list chooses its parts, in the order of a whole run; an empty one chooses all."""
    assert [part.name for part in run.choose_parts("counts, hot_path")] == ["hot_path", "counts"]
    assert [part.name for part in run.choose_parts("")] == list(run.PARTS)


def test_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A name that is no part ends the benchmark before it starts, and says which there are."""
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--only", "idle,warmth", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: there is no part warmth; there are {', '.join(run.PARTS)}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "must", "aim", "told"),
    [(0.6, 0.35, 0.5, "aim"), (0.4, 0.35, 0.5, "must"), (0.3, 0.35, 0.5, "missed"), (None, 0.35, 0.5, "-")],
)
def test_table_says_how_a_figure_stands(value: float | None, must: float, aim: float, told: str) -> None:
    """A figure is told beside what it must and should reach; one that was not measured is a dash."""
    printed = io.StringIO()
    line = Line("of nginx", value, must, aim, more_is_better=True)
    print_table(run.PARTS["hot_path"], [line], Console(width=120, file=printed))
    row = next(line for line in printed.getvalue().splitlines() if "of nginx" in line)
    assert told in row.split()


def test_table_of_the_hot_path_has_every_server() -> None:
    """What is written to the file is what the table is made of."""
    hot = {
        "nginx_rps": 100_000, "tailrace_rps": 50_000, "ratio_nginx": 0.5, "fastapi_rps": 2_500, "ratio_fastapi": 20.0,
        "p99_ms": 2.5, "redis_rps": 40_000, "redis_ratio_nginx": 0.4, "redis_ratio_fastapi": 16.0,
    }  # fmt: skip
    told = {
        line.name: line.write(line.value)
        for line in lines({"hot_path": hot, "rss_mb": 56.5, "cost_us_per_prediction": 18.0})
    }
    assert told["FastAPI on Redis, requests/s"] == "2,500"
    assert told["resident memory of a worker"] == "56.5 MB"


def test_client_is_compared_with_a_plain_one_that_writes_as_often() -> None:
    """The slowest is the one that loses most to its own plain client, whatever the others' rates."""
    recordings = {name: each for name, each in read_recordings().items() if name in {"go", "requests"}}
    rates = {"one_write": [100.0, 200.0, 300.0], "two_writes": [50.0, 50.0, 50.0],
             "go": [60.0, 120.0, 150.0], "requests": [40.0, 40.0, 40.0]}  # fmt: skip
    told = summarize(rates, recordings)
    assert told["real_clients_ratios"] == {"go": 0.6, "requests": 0.8}
    assert (told["real_clients_slowest"], told["real_clients_ratio"]) == ("go", 0.6)
    assert told["real_clients"] == {"go": 120, "requests": 40}


def test_goodput_counts_no_queue() -> None:
    """What fills the queue in the first second, and is answered after the last, makes no capacity."""
    seconds = [(0, 700), (1, 500), (2, 510), (3, 490), (4, 0)]
    timeline = [SimpleNamespace(second=second, ok_within_budget=count) for second, count in seconds]
    report: Any = SimpleNamespace(timeline=timeline, plan=SimpleNamespace(duration_s=4.0), goodput_per_s=550.0)
    assert steady_goodput(report) == 500
    report.plan.duration_s = 0.5
    assert steady_goodput(report) == 550


def test_commit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A name that is no commit ends the comparison, and nothing is laid out."""
    with pytest.raises(BenchError, match="no commit 'nonesuch'"):
        export_tree("nonesuch", tmp_path / "before")
    assert not (tmp_path / "before").exists()


def test_every_part_has_caveats() -> None:
    """What is to be known before a figure is read is said by the part that takes it."""
    assert all(part.caveats for part in run.PARTS.values())


def test_table_of_features_tells_the_ends_of_a_curve_and_leaves_a_peer_out_that_was_not_there() -> None:
    """A figure that was not taken is a dash, not an error; of a curve the first and the last point are told."""
    names = ("stream_ratio_batch", "redis_ratio_nginx", "redis_ratio_fastapi", "lmdb_freshness_p99_ms",
             "redis_freshness_p99_ms", "lmdb_events_per_s", "lmdb_events_per_cpu_s", "redis_events_per_s",
             "lmdb_read_p99_ms", "redis_read_p99_ms", "dataset_rows_per_s", "bytes_per_entity")  # fmt: skip
    curves = {"cost_windows": [[1, 14.0], [10, 15.0], [50, 17.0]], "cost_entities": [[1, 18.0], [200, 500.0]]}
    figures = {"features": dict.fromkeys(names, 1.0) | curves}
    told = {line.name: line.write(line.value) for line in run.PARTS["features"].lines(figures)}
    assert told["batch views on Redis against Feast's server"] == "-"
    assert told["CPU of 1 and 50 windows"] == "14.0 · 17.0 µs"
    assert told["CPU of 1 and 200 entities, 5 windows"] == "18.0 · 500.0 µs"


def test_capacity_that_one_part_has_found_is_there_for_another() -> None:
    """To seek it takes half a minute; where all loads were late there is a capacity still, and no p99."""
    late: Any = SimpleNamespace(ok=None, lag=None)
    costly: Any = SimpleNamespace(find_capacity=lambda seconds: 1_234.5, run=lambda rate, seconds, seed: late)
    session = Session(quick=True)
    told = measure_growth(session, costly)
    assert session.capacity_rps == 1_234.5
    assert told["capacity_rps"] == 1_234
    assert told["p99_growth_at_80"] is None
    assert "2 of 2 loads" in session.notes[0]
