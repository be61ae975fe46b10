from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from offline.optimize.conftest import NAMES
from tailrace.errors import ModelPackageError
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.metric import choose_metric


def test_rows_that_judge_do_not_calibrate(baseline: Path, rows: pa.Table) -> None:
    """A quarter calibrates, and no row of it judges."""
    evidence = Evidence.gather(read_manifest(baseline), rows, "fraud")
    judging, calibrating = (evidence.part(judges=judges) for judges in (True, False))
    assert (len(judging.outcomes), len(calibrating.outcomes)) == (1_500, 500)
    judged, calibrated = ({row.tobytes() for row in part.feeds["features"]} for part in (judging, calibrating))
    assert not judged & calibrated
    again = Evidence.gather(read_manifest(baseline), rows, "fraud")
    assert (again.judges == evidence.judges).all()


def test_saved_rows_are_the_same(tmp_path: Path) -> None:
    """What the processes read is what was gathered: texts, NaN, outcomes of any kind."""
    feeds = {"a.b/c": np.array([[1.0], [np.nan]], np.float32), "t": np.array([["x"], ["ü, y"]], object)}
    Evidence(feeds, (1, "b"), np.array([True, False])).save(tmp_path / "rows.npz")
    found = Evidence.load(tmp_path / "rows.npz")
    np.testing.assert_array_equal(found.feeds["a.b/c"], feeds["a.b/c"])
    assert found.feeds["t"].tolist() == feeds["t"].tolist()
    assert (found.outcomes, found.judges.tolist()) == ((1, "b"), [True, False])


def test_few_rows_are_refused(baseline: Path, rows: pa.Table) -> None:
    """A metric of few rows tells two models apart by luck."""
    with pytest.raises(ModelPackageError, match="99 rows that can be scored; 100 are the least"):
        Evidence.gather(read_manifest(baseline), rows.slice(0, 99), "fraud")


def test_missing_feature_is_told(baseline: Path, rows: pa.Table) -> None:
    """The error names the column."""
    with pytest.raises(ModelPackageError, match=r"no column for the model's features \['ratio'\]"):
        Evidence.gather(read_manifest(baseline), rows.drop_columns(["ratio"]), "fraud")


def signature_of(*classes: int) -> Signature:
    """Return the signature of a model with these classes."""
    return Signature((TensorSpec("x", "float32", tuple(NAMES)),), "score", None if len(classes) > 2 else 0, classes)


def test_metric_that_the_data_cannot_give_is_told() -> None:
    """Outcomes of one class give no area under a curve, and the error says so and names what they give."""
    metric = choose_metric("auc", signature_of(0, 1), (0, 0, 0))
    with pytest.raises(ModelPackageError, match="gives no auc: of its 3 held-back rows 0 have the second outcome"):
        metric.measure(np.array([0.1, 0.2, 0.3]), (0, 0, 0))


@pytest.mark.parametrize(
    ("name", "classes", "outcomes", "what"),
    [
        ("f1", (0, 1), (0, 1), "no metric is called 'f1'"),
        ("auc", (0, 1, 2), (0, 1, 2), "a classifier of 3 classes has no auc"),
        ("auc", (), (0.5, 2.5), "a regression has no auc"),
        ("rmse", (0, 1), (0, 1), "a classifier of 2 classes has no rmse"),
    ],
)
def test_metric_that_the_model_cannot_have_is_told(
    name: str, classes: tuple[int, ...], outcomes: tuple[float, ...], what: str
) -> None:
    """The error names the metrics that are possible."""
    with pytest.raises(ModelPackageError, match=what) as caught:
        choose_metric(name, signature_of(*classes), outcomes)
    assert "use one of" in caught.value.next


def test_onnx_file_of_one_score_has_the_metrics_of_two_classes() -> None:
    """An ONNX file says nothing of classes; outcomes of 0 and 1 do."""
    metric = choose_metric("auc", signature_of(), (0, 1, 1))
    assert metric.measure(np.array([0.1, 0.8, 0.7]), (0, 1, 1)) == 1.0


def test_loss_of_a_metric_is_how_much_worse_it_is() -> None:
    """Whether more or less is better is the metric's."""
    assert choose_metric("auc", signature_of(0, 1), ()).loss(0.9, 0.8) == pytest.approx(0.1)
    assert choose_metric("log_loss", signature_of(0, 1), ()).loss(0.3, 0.4) == pytest.approx(0.1)
    assert choose_metric("rmse", signature_of(), ()).loss(2.0, 1.5) == -0.5
