"""Calibrated models: the packaged one gives the original's probabilities, by whichever backend computes its score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder
from sklearn.svm import LinearSVC

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.bitvector import LIBRARY
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.calibration import Isotonic
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import CALIBRATION_FILE
from tailrace.release.calibration import cross_calibrate, fit_calibration
from tailrace.release.package import package

NAMES = ["amount", "ratio", "hour"]
ROWS = 1_200


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return float32 features, and fraud that is likelier than a model of the first half says."""
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 3)).astype(np.float32), columns=NAMES)
    signal = frame["amount"] + frame["ratio"] * frame["hour"] + rng.normal(size=ROWS)
    frame["fraud"] = (signal > np.where(np.arange(ROWS) < ROWS // 2, 1.2, 0.2)).astype(int)
    return frame


def halves(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to train on, and those to calibrate on."""
    return frame[: ROWS // 2], frame[ROWS // 2 :]


def boosted(**options: Any) -> lightgbm.LGBMClassifier:
    """Return small trees."""
    return lightgbm.LGBMClassifier(n_estimators=15, num_leaves=15, n_jobs=1, verbose=-1, **options)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "lightgbm": boosted,
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=15, max_depth=4, n_jobs=1),
    "forest": lambda: RandomForestClassifier(10, max_depth=5, random_state=0),
    "histogram trees": lambda: HistGradientBoostingClassifier(max_iter=10),
    "scaled logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "support vectors": LinearSVC,
}
TREES = {"lightgbm", "xgboost", "forest", "histogram trees"}


def quick(*kinds: str, of: Iterable[str]) -> list[Any]:
    """Return kinds to be tested, all but these among the slow tests."""
    return [kind if kind in kinds else pytest.param(kind, marks=pytest.mark.slow) for kind in of]


def assert_same(directory: Path, model: Any, rows: pd.DataFrame) -> None:
    """Hold a packaged model to the original's probabilities, but where float32 stands on a steep part of the curve."""
    expected = model.predict_proba(rows[NAMES])[:, 1]
    served, graph = load_model(directory), OnnxModel.load(directory)
    feeds = {served.signature.inputs[0].name: rows[NAMES].to_numpy(np.float32)}
    assert served.calibration is not None
    for scores in (served.predict(feeds), served.calibration.apply(graph.predict(feeds))):
        apart = np.abs(scores - expected)
        assert (apart > 1e-6).mean() <= (0.02 if isinstance(served.calibration, Isotonic) else 0)
        assert apart.max() <= 1e-3


@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
@pytest.mark.parametrize("kind", quick("lightgbm", "scaled logistic", of=CLASSIFIERS))
def test_calibrated_classifier_scores_as_the_original(
    kind: str, method: str, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """A classifier calibrated afterwards keeps its fast backend; what it is calibrated by is a file of its own."""
    trained, held = halves(frame)
    classifier = CLASSIFIERS[kind]().fit(trained[NAMES], trained["fraud"])
    model = CalibratedClassifierCV(FrozenEstimator(classifier), method=method).fit(held[NAMES], held["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m", target="fraud")
    assert_same(tmp_path / "m", model, frame)
    assert CALIBRATION_FILE in report.manifest.files
    assert report.manifest.source.model_type.startswith("CalibratedClassifierCV of ")
    if LIBRARY.is_file() and kind in TREES:
        assert "bit vectors" not in report.manifest.reasons, report.manifest.reasons


@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
@pytest.mark.parametrize("kind", quick("lightgbm", of=["lightgbm", "xgboost", "forest", "scaled logistic"]))
def test_several_calibrated_classifiers_are_one_graph(
    kind: str, method: str, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """The mean over classifiers, each trained and calibrated on another part, is computed by one graph."""
    model = CalibratedClassifierCV(CLASSIFIERS[kind](), method=method, cv=3).fit(frame[NAMES], frame["fraud"])
    package(model, frame, name="m", out=tmp_path / "m")
    served = load_model(tmp_path / "m")
    scores = served.predict({served.signature.inputs[0].name: frame[NAMES].to_numpy(np.float32)})
    apart = np.abs(scores - model.predict_proba(frame[NAMES])[:, 1])
    assert (apart > 2e-6).mean() <= 0.02
    assert apart.max() <= 1e-3


@pytest.mark.parametrize("method", ["isotonic", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_three_classes_are_calibrated_one_against_the_others(method: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Each class has a curve of its own, and the probabilities add up to one."""
    kinds = np.digitize(frame["amount"] + frame["ratio"], [-0.5, 0.7])
    model = CalibratedClassifierCV(CLASSIFIERS["scaled logistic"](), method=method, cv=3).fit(frame[NAMES], kinds)
    package(model, frame, name="m", out=tmp_path / "m")
    served = load_model(tmp_path / "m")
    scores = served.predict({served.signature.inputs[0].name: frame[NAMES].to_numpy(np.float32)})
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-6)
    assert np.quantile(np.abs(scores - model.predict_proba(frame[NAMES])), 0.99) <= 2e-6


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibration_fitted_at_packaging_betters_the_probabilities(
    method: str, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """`calibrate` fits a curve on the held-back outcomes; the metrics tell the gain on rows it was not fitted on."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    plain = package(model, held, name="m", out=tmp_path / "plain", target="fraud")
    report = package(model, held, name="m", out=tmp_path / "m", target="fraud", calibrate=method)
    metrics = report.manifest.metrics
    raw = model.predict_proba(held[NAMES])[:, 1]
    assert metrics["brier_uncalibrated"] == pytest.approx(np.mean((raw - held["fraud"]) ** 2), abs=1e-6)
    assert float(metrics["brier"]) < float(metrics["brier_uncalibrated"])
    served, uncalibrated = load_model(tmp_path / "m"), load_model(tmp_path / "plain")
    feeds = {"features": held[NAMES].to_numpy(np.float32)}
    scores = served.predict(feeds)
    assert abs(scores.mean() - held["fraud"].mean()) < 0.02 < abs(raw.mean() - held["fraud"].mean())
    assert (np.diff(scores[np.argsort(uncalibrated.predict(feeds), kind="stable")]) >= 0).all()
    assert report.manifest.version != plain.manifest.version
    assert report.backend == plain.backend


@pytest.mark.parametrize("kind", ["isotonic", "logistic", "a file"])
def test_fitted_calibrator_is_taken_as_it_is(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A calibrator of the model's score, fitted by the user, gives its own probabilities in serving."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    raw = model.predict_proba(held[NAMES])[:, 1]
    if kind == "isotonic":
        calibrator: Any = IsotonicRegression(out_of_bounds="clip").fit(raw, held["fraud"])
        expected = calibrator.predict(raw)
    else:
        calibrator = LogisticRegression().fit(raw[:, None], held["fraud"])
        expected = calibrator.predict_proba(raw[:, None])[:, 1]
    if kind == "a file":
        joblib.dump(calibrator, tmp_path / "calibrator.joblib")
        calibrator = str(tmp_path / "calibrator.joblib")
    package(model, held, name="m", out=tmp_path / "m", calibrate=calibrator, allow_pickle=kind == "a file")
    scores = load_model(tmp_path / "m").predict({"features": held[NAMES].to_numpy(np.float32)})
    assert (np.abs(scores - expected) > 1e-6).mean() <= 0.02


def test_calibration_that_cannot_be_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A regression, a model calibrated already, no outcomes, one class alone and no calibrator are told."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    twice = CalibratedClassifierCV(FrozenEstimator(model)).fit(held[NAMES], held["fraud"])
    regression = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, n_jobs=1).fit(trained[NAMES], trained["fraud"])
    loose = IsotonicRegression().fit([0, 1], [0, 1])
    wide = LogisticRegression().fit(held[NAMES], held["fraud"])
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (regression, {"calibrate": "platt", "target": "fraud"}, "no classifier of two classes"),
        (twice, {"calibrate": "platt", "target": "fraud"}, "calibrated already"),
        (model, {"calibrate": "platt"}, "fitted by outcomes"),
        (model, {"calibrate": "isotonic", "target": "honest"}, "all of one class"),
        (model, {"calibrate": loose}, "out_of_bounds"),
        (model, {"calibrate": wide}, "no calibration of one score"),
        (model, {"calibrate": "beta"}, "no such calibration"),
    ]
    for original, options, told in refused:
        with pytest.raises(ModelPackageError, match=told):
            package(original, held.assign(honest=0), name="m", out=tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_altered_calibration_is_not_served(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The curve is held by its digest, as the graph is."""
    trained, held = halves(frame)
    package(boosted().fit(trained[NAMES], trained["fraud"]), held, name="m", out=tmp_path / "m", target="fraud",
            calibrate="platt")  # fmt: skip
    file = tmp_path / "m" / CALIBRATION_FILE
    file.write_bytes(file.read_bytes().replace(b'"b":', b'"b":1'))
    with pytest.raises(ModelPackageError, match=r"calibration\.json|altered"):
        load_model(tmp_path / "m")


def test_several_calibrated_pipelines_on_raw_columns_are_one_graph(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Each member has encoders of its own, and the graph takes each raw column once."""
    rows = frame.assign(shop=np.random.default_rng(1).choice(["a", "b", "c"], ROWS))
    columns = ColumnTransformer([("c", TargetEncoder(), ["shop"]), ("n", StandardScaler(), NAMES)])
    pipeline = make_pipeline(columns, LogisticRegression())
    model = CalibratedClassifierCV(pipeline, cv=3).fit(rows[[*NAMES, "shop"]], rows["fraud"])
    report = package(model, rows, name="m", out=tmp_path / "m")
    served = load_model(tmp_path / "m")
    assert report.backend == "ONNX Runtime"
    feeds = {
        spec.name: rows[list(spec.features)].to_numpy(object if spec.dtype == "string" else np.float32)
        for spec in served.signature.inputs
    }
    np.testing.assert_allclose(served.predict(feeds), model.predict_proba(rows[[*NAMES, "shop"]])[:, 1], atol=1e-6)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_metrics_are_of_rows_that_the_calibration_has_not_seen(
    method: str, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """Behind a curve that is fitted to noise the metrics say so: each row is judged by one fitted without it."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    noise = held.assign(fraud=np.arange(len(held)) % 2)  # as data in the order of its outcomes: halved by draw
    found = package(model, noise, name="m", out=tmp_path / "m", target="fraud", calibrate=method).manifest.metrics
    scores = model.predict_proba(held[NAMES])[:, 1]
    truth = noise["fraud"].to_numpy().astype(bool)
    expected = np.clip(cross_calibrate(method, scores, truth), 1e-15, 1 - 1e-15)
    assert found["log_loss"] == pytest.approx(-np.log(np.where(truth, expected, 1 - expected)).mean(), rel=1e-3)
    seen = np.clip(fit_calibration(method, scores, truth).apply(scores), 1e-15, 1 - 1e-15)
    assert float(found["log_loss"]) > -np.log(np.where(truth, seen, 1 - seen)).mean()


def test_comparison_is_of_calibrated_scores(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What is told of the distance from the original is that of the probabilities that are served."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    source = package(model, held, name="m", out=tmp_path / "m", target="fraud", calibrate="platt").manifest.source
    graph, curve = OnnxModel.load(tmp_path / "m"), load_model(tmp_path / "m").calibration
    assert curve is not None
    scores = graph.predict({graph.signature.inputs[0].name: held[NAMES].to_numpy(np.float32)})
    expected = model.predict_proba(held[NAMES])[:, 1]
    assert source.difference_max == np.abs(curve.apply(scores) - curve.apply(expected)).max()
    assert source.difference_max != np.abs(scores - expected).max()


def test_one_row_of_an_outcome_is_too_few(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A half without it can fit nothing, which is told as what it is."""
    trained, held = halves(frame)
    model = boosted().fit(trained[NAMES], trained["fraud"])
    rare = held.assign(fraud=(np.arange(len(held)) == 7).astype(int))
    with pytest.raises(ModelPackageError, match="one of the outcomes came once"):
        package(model, rare, name="m", out=tmp_path / "m", target="fraud", calibrate="platt")
