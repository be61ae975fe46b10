from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from pyarrow import parquet
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler
from typer.testing import CliRunner

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.bitvector import LIBRARY
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.loading import load_model
from tailrace.release import comparison
from tailrace.release.package import package

NAMES = ["amount", "CustomerProfile.avg_amount_90d", "CustomerProfile.chargebacks_1y", "amount_ratio"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return 3,000 rows of four features, float32 values with ties and a few NaN, and outcomes of each kind."""
    rng = np.random.default_rng(7)
    values = rng.lognormal(size=(3000, 4)).astype(np.float32)
    values[:, 2] = np.floor(values[:, 2])
    frame = pd.DataFrame(values, columns=NAMES)
    signal = np.log(values[:, 0]) + 0.8 * values[:, 2] - 0.5 * values[:, 3] + rng.normal(size=3000)
    frame["fraud"] = (signal > 0.7).astype(int)
    frame["kind"] = np.digitize(signal, [-0.5, 0.8])
    frame["loss"] = signal * 100 + 5000
    frame["country"] = rng.choice(["DE", "FR", "IT", "a town, far away"], 3000)
    return frame


def lightgbm_model(frame: pd.DataFrame, target: str, **params: Any) -> lightgbm.Booster:
    """Train 30 small trees."""
    data = lightgbm.Dataset(frame[NAMES], frame[target])
    return lightgbm.train({"verbose": -1, "num_leaves": 15, "num_threads": 1, **params}, data, 30)


MODELS: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    "lightgbm binary": ("fraud", lambda f: lightgbm_model(f, "fraud", objective="binary")),
    "lightgbm regression": ("loss", lambda f: lightgbm_model(f, "loss", objective="regression")),
    "lightgbm poisson": ("kind", lambda f: lightgbm_model(f, "kind", objective="poisson")),
    "lightgbm multiclass": ("kind", lambda f: lightgbm_model(f, "kind", objective="multiclass", num_class=3)),
    "lightgbm one against all": ("kind", lambda f: lightgbm_model(f, "kind", objective="multiclassova", num_class=3)),
    "lightgbm sigmoid of its own": ("fraud", lambda f: lightgbm_model(f, "fraud", objective="binary", sigmoid=2.0)),
    "lightgbm classifier": (
        "fraud",
        lambda f: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(f[NAMES], f["fraud"]),
    ),
    "xgboost binary": (
        "fraud",
        lambda f: xgboost.XGBClassifier(n_estimators=20, max_depth=4).fit(f[NAMES], f["fraud"]),
    ),
    "xgboost binary with a base score": (
        "fraud",
        lambda f: xgboost.XGBClassifier(n_estimators=20, max_depth=4, base_score=0.2).fit(f[NAMES], f["fraud"]),
    ),
    "xgboost regression": ("loss", lambda f: xgboost.XGBRegressor(n_estimators=20).fit(f[NAMES], f["loss"])),
    "xgboost multiclass": ("kind", lambda f: xgboost.XGBClassifier(n_estimators=10).fit(f[NAMES], f["kind"])),
    "sklearn logistic": ("fraud", lambda f: LogisticRegression(max_iter=1000).fit(f[NAMES], f["fraud"])),
    "sklearn linear": ("loss", lambda f: LinearRegression().fit(f[NAMES], f["loss"])),
    "sklearn forest": (
        "fraud",
        lambda f: RandomForestClassifier(20, max_depth=6, random_state=0).fit(f[NAMES], f["fraud"]),
    ),
    "sklearn boosting": (
        "fraud",
        lambda f: HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(f[NAMES], f["fraud"]),
    ),
    "sklearn scaled logistic of 3": (
        "kind",
        lambda f: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(f[NAMES], f["kind"]),
    ),
}


TABULATED = {
    "lightgbm binary", "lightgbm regression", "lightgbm sigmoid of its own", "lightgbm classifier", "xgboost binary",
    "xgboost binary with a base score", "xgboost regression", "sklearn forest", "sklearn boosting",
}  # fmt: skip
"""What the bit-vector kernel computes: one score a row, at most 64 leaves, a sigmoid or no link."""
FORESTS = {"lightgbm poisson", "lightgbm multiclass", "lightgbm one against all", "xgboost multiclass"}
"""What the forest kernel computes: several scores, another link."""


def original_scores(model: Any, frame: pd.DataFrame) -> Any:
    """Return the scores of the framework itself, one a row or one a class."""
    matrix = frame[NAMES]
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(matrix)
        return scores[:, 1] if scores.shape[1] == 2 else scores
    return model.predict(matrix)


@pytest.mark.parametrize("kind", MODELS)
def test_packaged_model_scores_as_the_original(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """The loaded model gives the framework's own scores on every row, and NaN where the framework takes it."""
    target, train = MODELS[kind]
    model = train(frame)
    report = package(model, frame, name="m", out=tmp_path / "m", target=target)
    loaded = OnnxModel.load(tmp_path / "m")
    assert loaded.signature.feature_names == tuple(NAMES)
    feeds = {loaded.signature.inputs[0].name: np.ascontiguousarray(frame[NAMES].to_numpy(np.float32))}
    expected = original_scores(model, frame)
    scores = loaded.predict(feeds)
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert report.manifest.source.difference_max is not None
    assert report.manifest.source.difference_max <= 1e-5
    assert report.manifest.metrics["rows"] == 3000
    takes_nan = kind.split(maxsplit=1)[0] != "sklearn" or kind in {"sklearn boosting", "sklearn forest"}
    has_nan = any(None in row for row in report.manifest.golden.inputs[loaded.signature.inputs[0].name])
    assert has_nan == takes_nan
    feeds[loaded.signature.inputs[0].name][5, 0] = np.nan
    spoiled = loaded.predict(feeds)
    assert np.isnan(spoiled[5]).all() != takes_nan, "a row with NaN gets the original's score or none"
    np.testing.assert_allclose(np.delete(spoiled, 5, axis=0), np.delete(expected, 5, axis=0), rtol=1e-5, atol=1e-5)
    served = load_model(tmp_path / "m")
    assert (report.backend, report.backend_reason) == (served.backend, served.backend_reason)
    if LIBRARY.is_file():
        trees = "bit vectors" if kind in TABULATED else "forest kernel"
        assert served.backend == (trees if kind in TABULATED | FORESTS else "ONNX Runtime"), served.backend_reason
    np.testing.assert_allclose(served.predict(feeds), spoiled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["lightgbm binary", "lightgbm classifier", "xgboost binary"])
def test_boosted_trees_take_the_fast_form(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Two classes of boosted trees become a regressor and a sigmoid, which compute no labels."""
    report = package(MODELS[kind][1](frame), frame, name="m", out=tmp_path / "m")
    assert report.manifest.source.rewrite == "TreeEnsembleRegressor+Sigmoid"


def test_lightgbm_with_missing_values_scores_as_the_original(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Learnt directions of missing values are kept."""
    holes = frame.copy()
    holes.loc[holes.index % 3 == 0, NAMES[0]] = np.nan
    holes.loc[holes.index % 7 == 0, NAMES[3]] = np.nan
    model = lightgbm_model(holes, "fraud", objective="binary")
    package(model, holes, name="m", out=tmp_path / "m")
    scores = OnnxModel.load(tmp_path / "m").predict({"features": holes[NAMES].to_numpy(np.float32)})
    np.testing.assert_allclose(scores, model.predict(holes[NAMES]), atol=1e-6)


def test_lightgbm_thresholds_between_float32_neighbours_split_as_the_original(tmp_path: Path) -> None:
    """A threshold between two neighbouring float32 values must not be rounded up onto the upper one."""
    low = np.float32(1.0) + np.arange(40, dtype=np.float32) * np.float32(2**-23)
    values = np.repeat(low, 50)
    frame = pd.DataFrame({"x": values, "z": np.zeros(len(values), np.float32)})
    outcome = (np.arange(len(values)) // 50) % 2
    data = lightgbm.Dataset(frame, outcome, params={"min_data_in_bin": 1, "max_bin": 1000})
    model = lightgbm.train({"objective": "binary", "verbose": -1, "min_data_in_leaf": 1, "num_leaves": 60}, data, 20)
    assert np.ptp(model.predict(frame)) > 0.5, "the trees do split between neighbours"
    report = package(model, frame, name="m", out=tmp_path / "m")
    assert report.manifest.source.difference_max is not None
    assert report.manifest.source.difference_max < 1e-6


def test_pipeline_with_texts_has_named_inputs(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A column transformer gets one input a column, of the column's own type; unknown texts are scored too."""
    columns = ["amount", "CustomerProfile.avg_amount_90d", "country"]
    model = make_pipeline(
        ColumnTransformer(
            [("text", OneHotEncoder(handle_unknown="ignore"), ["country"]), ("number", StandardScaler(), columns[:2])]
        ),
        LogisticRegression(),
    ).fit(frame[columns], frame["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m", target="fraud")
    loaded = OnnxModel.load(tmp_path / "m")
    assert [(*spec.features, spec.dtype) for spec in loaded.signature.inputs] == [
        ("amount", "float32"), ("CustomerProfile.avg_amount_90d", "float32"), ("country", "string"),
    ]  # fmt: skip
    rows = frame[columns].head(50).copy()
    rows.loc[:10, "country"] = "XX"
    feeds = {spec.name: rows[[*spec.features]].to_numpy(spec.numpy_dtype) for spec in loaded.signature.inputs}
    np.testing.assert_allclose(loaded.predict(feeds), model.predict_proba(rows)[:, 1], atol=1e-5)
    texts = report.manifest.profile.features["country"]
    assert sum(count for _, count in texts.top) == 3000


def test_profile_and_golden_rows_cover_the_data(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The profile's counts add up, its edges are the data's ends, and golden rows reach both ends of the scores."""
    model = MODELS["lightgbm binary"][1](frame)
    manifest = package(model, frame, name="m", out=tmp_path / "m").manifest
    profile = manifest.profile.features["amount"]
    assert profile.count == sum(profile.counts) == 3000
    assert (profile.min, profile.max) == (frame["amount"].min(), frame["amount"].max())
    assert profile.edges[0] == profile.min
    assert profile.edges[-1] == profile.max
    assert len(profile.counts) == 10
    assert all(290 <= count <= 310 for count in profile.counts)
    scores = [row[0] for row in manifest.golden.scores]
    assert min(scores) <= manifest.profile.scores[0].min
    assert max(scores) >= manifest.profile.scores[0].max
    assert len(scores) <= 32


def test_data_without_a_feature_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A feature that the data lacks is named."""
    model = MODELS["lightgbm binary"][1](frame)
    with pytest.raises(ModelPackageError, match="no column for \\['amount_ratio'\\]"):
        package(model, frame.drop(columns="amount_ratio"), name="m", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_place_that_cannot_be_written_is_told(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A directory that is forbidden, or cannot be, is no traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(ModelPackageError, match="it cannot be written: Not a directory"):
        package(MODELS["lightgbm binary"][1](frame), frame, name="m", out=tmp_path / "file" / "x" / "m")


def test_columns_in_another_order_are_found_by_name(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The order of the data's columns, and columns that are no features, change nothing."""
    model = MODELS["lightgbm binary"][1](frame)
    package(model, frame[["country", *reversed(NAMES)]], name="m", out=tmp_path / "m")
    loaded = OnnxModel.load(tmp_path / "m")
    assert loaded.signature.feature_names == tuple(NAMES)
    scores = loaded.predict({"features": frame[NAMES].to_numpy(np.float32)})
    np.testing.assert_allclose(scores, model.predict(frame[NAMES]), atol=1e-6)


@pytest.mark.parametrize("framework", ["lightgbm", "xgboost", "sklearn"])
def test_model_without_feature_names_is_refused(framework: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Unnamed features could be fed in any order, so they are not."""
    matrix, outcome = frame[NAMES].to_numpy(), frame["fraud"].to_numpy()
    if framework == "lightgbm":
        model: Any = lightgbm.train({"verbose": -1}, lightgbm.Dataset(matrix, outcome), 2)
    elif framework == "xgboost":
        model = xgboost.XGBClassifier(n_estimators=2).fit(matrix, outcome)
    else:
        model = LogisticRegression().fit(matrix, outcome)
    with pytest.raises(ModelPackageError, match="without feature names"):
        package(model, frame, name="m", out=tmp_path / "m")


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # LightGBM 4.6
def test_conversion_that_differs_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What the converter gets wrong, as zero as a missing value in a pipeline, is told with the worst row."""
    zeros = frame.copy()
    zeros.loc[zeros.index % 2 == 0, NAMES[0]] = 0.0
    model = make_pipeline(MaxAbsScaler(), lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, zero_as_missing=True))
    model.fit(zeros[NAMES], zeros["fraud"])
    with pytest.raises(ModelPackageError, match="the worst is row") as caught:
        package(model, zeros, name="m", out=tmp_path / "m")
    assert "amount" in caught.value.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # LightGBM 4.6
def test_conversion_that_differs_for_zeros_only_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Data without a zero hides what the converter gets wrong about the usual default, so zeros are tried."""
    model = make_pipeline(MaxAbsScaler(), lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, zero_as_missing=True))
    above = frame[(frame[NAMES] > 0).all(axis=1)]
    model.fit(above[NAMES], above["fraud"])
    with pytest.raises(ModelPackageError, match="a row with zero in amount"):
        package(model, above, name="m", out=tmp_path / "m")


def test_rows_with_a_null_are_left_out_where_they_get_no_score(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table larger than what is compared, a row that gets no score in serving is in no golden row or metric."""
    monkeypatch.setattr(comparison, "ROWS_COMPARED_MAX", 100)
    holes = frame.copy()
    compared = np.linspace(0, len(frame) - 1, 100).astype(np.int64)
    holes.loc[(holes.index % 5 == 0) & ~holes.index.isin(compared), NAMES[0]] = np.nan
    nulls = int(holes[NAMES[0]].isna().sum())
    manifest = package(
        MODELS["sklearn logistic"][1](frame), holes, name="m", out=tmp_path / "m", target="fraud"
    ).manifest
    assert not manifest.source.missing
    assert not any(None in row for rows in manifest.golden.inputs.values() for row in rows)
    assert manifest.metrics["rows"] == 3000 - nulls
    assert manifest.profile.features[NAMES[0]].nulls == nulls


def test_rows_with_a_null_that_is_filled_are_scored(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A model that fills nulls in one feature is measured on rows with such, and has them among its golden rows."""
    holes = frame.copy()
    holes.loc[holes.index % 5 == 0, NAMES[0]] = np.nan
    columns = ColumnTransformer([("filled", SimpleImputer(), NAMES[:1]), ("rest", "passthrough", NAMES[1:])])
    model = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(holes[NAMES], holes["fraud"])
    manifest = package(model, holes, name="m", out=tmp_path / "m", target="fraud").manifest
    with_null = [name for name, rows in manifest.golden.inputs.items() if [None] in rows]
    assert (len(with_null), len(manifest.source.unfilled)) == (1, 3)
    assert not set(with_null) & set(manifest.source.unfilled)
    assert manifest.metrics["rows"] == 3000


def test_data_that_the_model_cannot_score_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Nulls that a model does not take, and text for a number, are told with their columns, not with a traceback."""
    holes = frame.copy()
    holes.loc[holes.index % 5 == 0, NAMES[1]] = None
    with pytest.raises(ModelPackageError, match=r"nulls in CustomerProfile\.avg_amount_90d \(600\)") as caught:
        package(MODELS["sklearn logistic"][1](frame), holes, name="m", out=tmp_path / "m")
    assert "defaults" in caught.value.next
    for text in ("much", "1.5"):
        with pytest.raises(ModelPackageError, match=r"the column holds text.* takes float32") as caught:
            package(MODELS["lightgbm binary"][1](frame), frame.assign(amount=text), name="m", out=tmp_path / "m")
        assert caught.value.where == "data.amount"
    assert list(tmp_path.iterdir()) == []


def test_unfit_inputs_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What is no model, no data, no name or no target is told, each by its own words."""
    model = MODELS["lightgbm binary"][1](frame)
    (tmp_path / "broken.txt").write_text("tree\nversion=v4\n")
    (tmp_path / "notes.md").write_text("hello")
    for given, words in (
        (object(), "not a model that can be packaged"),
        (tmp_path / "none.txt", "no such model file"),
        (tmp_path / "broken.txt", "cannot be read"),
        (tmp_path / "notes.md", "names no known model file"),
    ):
        with pytest.raises(ModelPackageError, match=words):
            package(given, frame, name="m", out=tmp_path / "m")
    for data, words in (
        ({"amount": [1]}, "the data is a dict"),
        (frame.head(0), "no rows"),
        (tmp_path / "none.parquet", "no such file"),
        (tmp_path / "notes.md", "cannot be read"),
        (frame.assign(amount=pd.Timestamp("2024-01-01")), "which no model input has"),
    ):
        with pytest.raises(ModelPackageError, match=words):
            package(model, data, name="m", out=tmp_path / "m")
    with pytest.raises(ModelPackageError, match="name of its directory"):
        package(model, frame, name="a/b", out=tmp_path / "m")
    with pytest.raises(ModelPackageError, match="no column 'outcome'"):
        package(model, frame, name="m", out=tmp_path / "m", target="outcome")
    with pytest.raises(ModelPackageError, match="none of the classes"):
        package(model, frame, name="m", out=tmp_path / "m", target="kind")


def test_existing_directory_is_kept_unless_told(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Without overwrite nothing is touched; with it the directory is replaced whole; a refusal leaves the old one."""
    out = tmp_path / "m"
    model = MODELS["lightgbm binary"][1](frame)
    package(model, frame, name="first", out=out)
    (out / "stray").write_text("")
    with pytest.raises(ModelPackageError, match="directory exists"):
        package(model, frame, name="second", out=out)
    with pytest.raises(ModelPackageError, match="no column"):
        package(model, frame[["amount"]], name="second", out=out, overwrite=True)
    assert OnnxModel.load(out).manifest.name == "first"
    package(model, frame, name="second", out=out, overwrite=True)
    assert OnnxModel.load(out).manifest.name == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    tables = ["trees.msgpack"] if LIBRARY.is_file() else []
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.onnx", *tables]


@pytest.mark.parametrize("suffix", [".txt", ".json", ".ubj", ".pkl", ".joblib", ".onnx"])
def test_model_file_of_each_kind_is_read(suffix: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Every kind of file gives the model that was saved in it."""
    path = tmp_path / f"model{suffix}"
    data = frame[NAMES]
    if suffix == ".txt":
        MODELS["lightgbm binary"][1](frame).save_model(path)
    elif suffix in {".json", ".ubj"}:
        MODELS["xgboost binary"][1](frame).save_model(path)
    elif suffix == ".onnx":
        package(MODELS["lightgbm binary"][1](frame), frame, name="m", out=tmp_path / "first")
        (tmp_path / "first" / "model.onnx").rename(path)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps(MODELS["sklearn logistic"][1](frame)))
    else:
        import joblib

        joblib.dump(MODELS["sklearn logistic"][1](frame), path)
    report = package(path, data, name="m", out=tmp_path / "m", allow_pickle=suffix in {".pkl", ".joblib"})
    assert report.manifest.signature.feature_names == tuple(NAMES)
    assert (report.manifest.source.difference_max is None) == (suffix == ".onnx")
    assert OnnxModel.load(tmp_path / "m").predict(OnnxModel.load(tmp_path / "m").sample_feeds(5)).shape == (5,)


def test_package_command_prints_what_a_program_reads(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The command packages from files; --json is JSON with signature, metrics and cost."""
    import typer

    from tailrace.cli.package import package as command

    app = typer.Typer()
    app.command()(command)
    MODELS["lightgbm binary"][1](frame).save_model(tmp_path / "model.txt")
    parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "data.parquet")
    (tmp_path / "metrics.json").write_text('{"card_precision_100": 0.29}')
    arguments = [
        str(tmp_path / "model.txt"), "--data", str(tmp_path / "data.parquet"), "--name", "fraud", "--target", "fraud",
        "--metrics", str(tmp_path / "metrics.json"), "--out", str(tmp_path / "m"),
    ]  # fmt: skip
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == 0, plain.output
    assert "CustomerProfile.avg_amount_90d" in plain.stdout
    assert "worst difference" in plain.stdout
    result = CliRunner().invoke(app, [*arguments, "--overwrite", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["signature"]["inputs"][0]["features"] == NAMES
    assert found["metrics"]["card_precision_100"] == 0.29
    assert 0.5 < found["metrics"]["roc_auc"] <= 1
    assert set(found["cost_ns"]) == {"1", "16", "64"}
