"""What float32 does to a model's scores: ordinary data is packaged, a feature that float32 loses is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from tailrace.cli.package import package as command
from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.signature import TensorSpec
from tailrace.release.package import package
from tailrace.release.rows import Rows
from tailrace.release.trees import round_down, round_near

ROWS = 4_000
KINDS: dict[str, Any] = {
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=50, verbose=-1, n_jobs=1),
    "histogram trees": HistGradientBoostingClassifier(max_iter=50, random_state=0),
    "forest": RandomForestClassifier(20, max_depth=8, random_state=0),
    "scaled logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the source of a test's data."""
    return np.random.default_rng(3)


def draw(rng: np.random.Generator, decimals: int) -> pd.DataFrame:
    """Return two columns of decimal numbers, few of which float32 holds exactly."""
    return pd.DataFrame(np.round(rng.lognormal(1, 1, size=(ROWS, 2)), decimals), columns=["amount", "rate"])


def draw_seconds(rng: np.random.Generator) -> pd.DataFrame:
    """Return amounts, and seconds since 1970 within two hours, which float32 holds to 128 s."""
    frame = draw(rng, 2)[["amount"]]
    return frame.assign(seconds=1.7e9 + rng.integers(0, 7200, ROWS))


def flip_every_100_s(frame: pd.DataFrame) -> Any:
    """Return outcomes that depend on the seconds and the amount."""
    return ((frame.iloc[:, 1] // 100 % 7 < 3) ^ (frame.amount > 3)).astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decimals", [2, 4, 15])
def test_decimal_numbers_score_as_the_original(
    kind: str, decimals: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    """A model of amounts with cents, rates or continuous doubles is packaged, and scores them as the original does."""
    frame = draw(rng, decimals)
    outcome = (np.log(frame.amount) + rng.normal(size=ROWS) > 1 + frame.rate / 9).astype(int)
    model = KINDS[kind].fit(frame, outcome)
    report = package(model, frame, name="m", out=tmp_path / "m")
    assert "rows_rounded" not in report.manifest.metrics
    loaded = OnnxModel.load(tmp_path / "m")
    scores = loaded.predict({loaded.signature.inputs[0].name: frame.to_numpy(np.float32)})
    np.testing.assert_allclose(scores, model.predict_proba(frame)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lightgbm", "histogram trees", "scaled logistic"])
def test_seconds_that_float32_does_not_tell_apart_are_refused(
    kind: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """The column is named with the step it is rounded by, and what to train on instead."""
    frame = draw_seconds(rng)
    model = KINDS[kind].fit(frame, flip_every_100_s(frame))
    with pytest.raises(ModelPackageError, match=r"seconds is rounded by up to 64, which alone changes \d+%") as caught:
        package(model, frame, name="m", out=tmp_path / "m")
    assert caught.value.where == "data.seconds"
    assert "a distance from a fixed start" in caught.value.next
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_that_float32_does_not_tell_apart_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    """Large ids lose their last digits, which a table of integers must not hide."""
    frame = draw(rng, 2)[["amount"]].assign(account=rng.integers(2**33, 2**33 + 500, ROWS))
    model = KINDS["lightgbm"].fit(frame, (frame.account % 10 < 5).astype(int))
    with pytest.raises(ModelPackageError, match="account is rounded"):
        package(model, frame, name="m", out=tmp_path / "m")


def test_distance_from_a_fixed_start_is_packaged(rng: np.random.Generator, tmp_path: Path) -> None:
    """What the refusal advises is accepted."""
    frame = draw_seconds(rng)
    frame["seconds"] -= 1.7e9
    model = KINDS["lightgbm"].fit(frame, flip_every_100_s(frame))
    assert package(model, frame, name="m", out=tmp_path / "m").manifest.metrics == {}


def test_columns_of_float32_are_packaged(rng: np.random.Generator, tmp_path: Path) -> None:
    """A model that was trained on what float32 holds has nothing to lose."""
    frame = draw_seconds(rng)
    model = KINDS["lightgbm"].fit(frame.astype(np.float32), flip_every_100_s(frame))
    assert package(model, frame.astype(np.float32), name="m", out=tmp_path / "m").manifest.metrics == {}


def test_few_rows_on_a_split_are_told(rng: np.random.Generator, tmp_path: Path) -> None:
    """Two values on either side of a split that are one in float32: packaged, counted in the manifest and printed."""
    frame = pd.DataFrame({"x": rng.normal(size=ROWS) + 5, "z": rng.normal(size=ROWS)})
    frame.loc[:1, "x"] = [1.0 + 1e-9, 1.0 + 2e-9]
    outcome = (frame.x > 1.0 + 1e-9).astype(int)
    data = lightgbm.Dataset(frame, outcome, params={"min_data_in_bin": 1, "max_bin": 5000})
    params = {"objective": "regression", "verbose": -1, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0}
    model = lightgbm.train(params, data, 5)
    assert abs(np.subtract(*model.predict(frame.head(2)))) > 0.1, "the trees do split between them"
    model.save_model(tmp_path / "model.txt")
    frame.to_parquet(tmp_path / "data.parquet")
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(
        app,
        [str(tmp_path / "model.txt"), "--data", str(tmp_path / "data.parquet"), "--name", "m", "--out",
         str(tmp_path / "m")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "but for 1 that" in result.stdout
    manifest = OnnxModel.load(tmp_path / "m").manifest
    assert manifest.metrics["rows_rounded"] == 1
    assert float(manifest.metrics["difference_rounded"]) > 0.1
    assert manifest.source.difference_max is not None
    assert manifest.source.difference_max <= 1e-5


@pytest.mark.parametrize("threshold", [12.34, 0.1, -0.3, 1e-300, 1e300, -1e300, 2.0, 16_777_217.0])
def test_threshold_is_rounded_as_the_values_are(threshold: float) -> None:
    """Down, it stands below no float32 that it stood above; to the nearest, its own value stays on its side."""
    below = round_down(threshold)
    with np.errstate(over="ignore"):
        assert below <= threshold < float(np.nextafter(np.float32(below), np.float32(np.inf)))
    with np.errstate(over="ignore"):
        near = float(np.float32(threshold))
    assert round_near(threshold) == (near if near < np.inf else np.finfo(np.float32).max)


def test_rows_with_a_value_hold_it_in_every_feature() -> None:
    """Each feature gets the value in a row of its own, the last row in all, even of fewer rows than features."""
    rows = Rows({"a": np.array([1, 2]), "b": np.array([1.5, 2.5], np.float32), "c": np.array(["x", "y"], object)})
    specs = (TensorSpec("m", "float32", ("a", "b")), TensorSpec("t", "string", ("c",)))
    made = rows.with_value(specs, np.nan)
    assert np.isnan(made.columns["a"]).tolist() == [True, False, True]
    assert np.isnan(made.columns["b"]).tolist() == [False, True, True]
    assert made.columns["c"].tolist() == ["x", "y", "x"]
    assert rows.columns["a"].tolist() == [1, 2]
    assert len(Rows({"c": rows.columns["c"]}).with_value(specs[1:], 0.0)) == 0
