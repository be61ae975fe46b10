"""Labels that come beside the log are joined with it while the server runs, and cost nothing before there are any."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving import Server, fetch, serving, wait_for
from structlog.testing import capture_logs

from log_writers import NOON_S, Now, at, writers
from tailrace.monitor.drift.outcome_values import outcome_values
from tailrace.monitor.observed import Observed
from tailrace.release.pinned import Pin
from tailrace.server.declared import load_all
from tailrace.server.observing import outcomes as observed_outcomes
from tailrace.server.observing.outcomes import ObservedOutcomes, thresholds_of

LIMIT_S = 60.0


def label(root: Path, name: str, labels: dict[str, int]) -> None:
    """Put a file of labels beside a log."""
    (root / "labels").mkdir(exist_ok=True)
    pq.write_table(pa.table({"request_id": list(labels), "label": list(labels.values())}), root / "labels" / name)


def pin_of(folder: Path) -> Pin:
    """Return a pin of a pipeline's file as it is."""
    path = str(folder)
    return Pin(root=path, folder=path, number=0, files=(f"{path}/log.py",), folders=((path, path),))


def joined(watch: ObservedOutcomes) -> Observed:
    """Have a watch look, and return what it shows when it has."""
    watch._next_s = 0.0
    watch.write()
    if watch._thread is not None:
        watch._thread.join(LIMIT_S)
    observed = Observed(at_s=1.0)
    watch.tell(observed)
    return observed


def test_labels_are_joined_when_they_come(tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without labels no thread is begun; a file of them is joined, and one more; a broken one is told once."""
    monkeypatch.setattr(time, "time_ns", lambda: int((NOON_S + 60) * 1e9))
    watch = ObservedOutcomes(load_all(pin_of(pipelines_dir)), tmp_path)
    with writers(tmp_path, Now()) as write:
        write("log").write([at(0, 0, 9, pipeline="log")])  # scores of a tenth of their number
    assert joined(watch).outcomes == {}
    assert watch._thread is None
    label(tmp_path, "a.parquet", {"r0": 0, "r8": 1, "r99": 1})
    found = joined(watch).outcomes["log"]
    assert (found.lines, found.labels, found.unknown_ids, found.scorecard.auc) == (9, 3, 1, 1.0)
    label(tmp_path, "b.parquet", {"r7": 0})
    with capture_logs() as logged:
        (tmp_path / "labels" / "c.parquet").write_bytes(b"PAR1 no")
        found = joined(watch).outcomes["log"]
        assert joined(watch).outcomes["log"] is found  # nothing is new
    assert found.scorecard.rows == 3
    assert [each["event"] for each in logged] == ["labels cannot be read"]
    assert outcome_values({"log": found})["tailrace_outcome_rows", ("log",)] == 3
    shutil.rmtree(tmp_path / "labels")
    assert joined(watch).outcomes == {}


def test_fault_is_told_and_tried_again(tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the join is logged, ends nothing, and is not tried again at once."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr("tailrace.monitor.drift.labelled.join_outcomes", fail)
    label(tmp_path, "a.parquet", {"r0": 0})
    watch = ObservedOutcomes(load_all(pin_of(pipelines_dir)), tmp_path)
    with capture_logs() as logged:
        assert joined(watch).outcomes == {}
        assert watch._next_s > time.monotonic() + observed_outcomes.LOOK_S
        assert joined(watch).outcomes == {}
    assert [each["event"] for each in logged] == ["outcomes are not known"]
    monkeypatch.undo()
    assert "log" in joined(watch).outcomes


def test_thresholds_are_where_bands_begin(pipelines_dir: Path) -> None:
    """Of a pipeline with bands all but the first, which every score is over; of another none."""
    from tailrace.compile.loading import load_pipelines

    assert {each.name: thresholds_of(each) for each in load_pipelines(pipelines_dir / "log.py")}["log"] == (1.0,)


@pytest.mark.slow
def test_served_predictions_are_judged(tmp_path: Path, pipelines_dir: Path) -> None:
    """Of requests that a real server answered and logged, labels give precision, recall and area, as metrics too."""
    log = tmp_path / "log"

    def ask(server: Server, number: int) -> None:
        answer = server.ask("log", {"amount": 1.0 + number / 12}, {"X-Request-Id": f"r{number}"})
        assert answer.status == 200

    with serving(tmp_path / "out", pipelines_dir / "log.py", "--log", str(log)) as server:
        for number in range(20):  # scores of 0 to 0.95
            ask(server, number)
        wait_for(lambda: server.metric("tailrace_predictions_logged_total") == 20, LIMIT_S)
        label(log, "a.parquet", {f"r{number}": int(number >= 10) for number in range(0, 20, 2)})
        wait_for(lambda: server.metric("tailrace_outcome_rows") == 10, LIMIT_S)
        assert server.metric("tailrace_outcome_auc", 'pipeline="log"') == 1.0
        shown = json.loads(fetch(f"{server.admin}/status")[2])["outcomes"]["log"]
        assert shown["scorecard"]["positives"] == 5
        assert server.metric("tailrace_outcome_precision", 'decision="low"') == 0.5
        assert not server.events("outcomes are not known")
