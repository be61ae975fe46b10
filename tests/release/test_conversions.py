"""The forms of trees there are: each is converted rightly, or refused with what to train instead."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn
import xgboost
from packaging.requirements import Requirement
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.release.package import package
from tailrace.release.trees import histogram_graph

NAMES = ["amount", "ratio", "shop"]
ROWS = 2_000
HELD_BACK = 1_500
KINDS_OF_SHOP = 12
OF_THREE = ["bad", "good", "odd"]

# XGBoost 3.4 deprecates what is refused here, and its forests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*booster=.* is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*XGBRFClassifier.* is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return amounts with cents, ratios, the number of a shop, and outcomes of each kind."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(np.round(rng.lognormal(1, 1, size=(ROWS, 2)), 2), columns=NAMES[:2])
    frame["shop"] = rng.integers(0, KINDS_OF_SHOP, ROWS)
    signal = np.log(frame.amount) + np.isin(frame.shop, [1, 4, 7]) * 1.5 + rng.normal(size=ROWS) / 2
    frame["fraud"] = (signal > 1.5).astype(int)
    frame["kind"] = np.digitize(signal, [0.8, 2.0])
    frame["loss"] = np.exp(signal)
    frame["word"] = np.array(["odd", "bad", "good"])[frame["kind"]]
    frame["verdict"] = np.where(frame["fraud"] == 1, "fraud", "honest")
    return frame


def boost(frame: pd.DataFrame, target: str, **params: Any) -> Any:
    """Train LightGBM; `categories` are its categorical features."""
    categories = params.pop("categories", "auto")
    data = lightgbm.Dataset(frame[NAMES], frame[target], categorical_feature=categories)
    return lightgbm.train({"verbose": -1, "num_threads": 1, "num_leaves": 15, **params}, data, 20)


def stop_early(frame: pd.DataFrame) -> xgboost.XGBClassifier:
    """Train XGBoost until it gets no better, which leaves some trees too many."""
    model = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=5)
    seen, held = frame[:HELD_BACK], frame[HELD_BACK:]
    model.fit(seen[NAMES], seen["fraud"], eval_set=[(held[NAMES], held["fraud"])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    return model


FOREST = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}
SHOPS = {"categories": ["shop"], "min_data_per_group": 1, "cat_smooth": 1}

CONVERTED: dict[str, Callable[[pd.DataFrame], Any]] = {
    "lightgbm categories": lambda f: boost(f, "fraud", objective="binary", **SHOPS),
    "lightgbm categories, one by one": lambda f: boost(
        f, "loss", objective="regression", max_cat_to_onehot=99, **SHOPS
    ),
    "lightgbm dart": lambda f: boost(f, "fraud", objective="binary", boosting="dart"),
    "lightgbm forest": lambda f: boost(f, "fraud", objective="binary", **FOREST),
    "lightgbm forest regression": lambda f: boost(f, "loss", objective="regression", **FOREST),
    "lightgbm forest of 3": lambda f: boost(f, "kind", objective="multiclass", num_class=3, **FOREST),
    "xgboost stopped early": stop_early,
    "xgboost forest": lambda f: xgboost.XGBClassifier(
        n_estimators=1, num_parallel_tree=20, learning_rate=1, subsample=0.8, colsample_bynode=0.8
    ).fit(f[NAMES], f["fraud"]),
    "histogram trees of 3": lambda f: HistGradientBoostingClassifier(max_iter=20).fit(f[NAMES], f["kind"]),
    "histogram trees regression": lambda f: HistGradientBoostingRegressor(max_iter=20).fit(f[NAMES], f["loss"]),
    "histogram trees poisson": lambda f: HistGradientBoostingRegressor(loss="poisson", max_iter=20).fit(
        f[NAMES], f["kind"]
    ),
    "histogram trees gamma": lambda f: HistGradientBoostingRegressor(loss="gamma", max_iter=20).fit(
        f[NAMES], f["loss"]
    ),
}
"""What gives the framework's own scores."""

WORDED: dict[str, tuple[str, Any]] = {
    "lightgbm of 3": ("word", lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1)),
    "lightgbm of 2": ("verdict", lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1)),
    "histogram trees of 3": ("word", HistGradientBoostingClassifier(max_iter=20)),
    "forest of 3": ("word", RandomForestClassifier(10, max_depth=5, random_state=0)),
    "logistic of 2": ("verdict", LogisticRegression(max_iter=1000)),
    "logistic of 3": ("word", LogisticRegression(max_iter=1000)),
}

REFUSED: dict[str, tuple[Callable[[pd.DataFrame], Any], str, str]] = {
    "xgboost linear": (
        lambda f: xgboost.XGBClassifier(n_estimators=5, booster="gblinear").fit(f[NAMES], f["fraud"]),
        "'gblinear'",
        "gbtree",
    ),
}
"""What has no form that is served: how it is trained, a part of what is said, a part of what is advised."""


def score(model: Any, frame: pd.DataFrame) -> Any:
    """Return the framework's own scores, one a row or one a class."""
    if not hasattr(model, "predict_proba"):
        return model.predict(frame[NAMES])
    scores = model.predict_proba(frame[NAMES])
    return scores[:, 1] if scores.shape[1] == 2 else scores


def score_packaged(directory: Path, frame: pd.DataFrame) -> Any:
    """Return the scores that a server gives."""
    model = load_model(directory)
    return model.predict({model.signature.inputs[0].name: frame[NAMES].to_numpy(np.float32)})


@pytest.mark.parametrize("kind", CONVERTED)
def test_form_of_trees_scores_as_the_original(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Every form that ONNX has gives the framework's own scores, for shops that training never saw as well."""
    model = CONVERTED[kind](frame)
    package(model, frame, name="m", out=tmp_path / "m")
    for shop in (frame.shop, -1, KINDS_OF_SHOP, 1e6, np.nan):
        rows = frame.assign(shop=shop)
        np.testing.assert_allclose(score_packaged(tmp_path / "m", rows), score(model, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", WORDED)
def test_classes_that_are_words_keep_their_order(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """The manifest names the classes in the order of the scores, and outcomes are found by name."""
    target, model = WORDED[kind]
    model.fit(frame[NAMES], frame[target])
    manifest = package(model, frame, name="m", out=tmp_path / "m", target=target).manifest
    assert manifest.signature.classes == tuple(model.classes_)
    assert list(manifest.signature.classes) == (OF_THREE if target == "word" else ["fraud", "honest"])
    np.testing.assert_allclose(score_packaged(tmp_path / "m", frame), score(model, frame), atol=1e-5)
    assert manifest.metrics["accuracy"] == pytest.approx((model.predict(frame[NAMES]) == frame[target]).mean())


@pytest.mark.parametrize("kind", REFUSED)
def test_form_that_is_not_served_is_refused(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """What has neither a form in ONNX nor one of its own is told by its name, with the option to leave out."""
    train, what, advice = REFUSED[kind]
    with pytest.raises(ModelPackageError) as caught:
        package(train(frame), frame[(frame[NAMES] != 0).all(axis=1)], name="m", out=tmp_path / "m")
    assert what in caught.value.what
    assert advice in caught.value.next


def without_predictors(model: Any) -> None:
    """Take the trees away."""
    del model._predictors


def without_baseline(model: Any) -> None:
    """Take away what the trees are added to."""
    del model._baseline_prediction


def with_other_nodes(model: Any) -> None:
    """Leave a field out of the first tree's nodes: in a copy, since all trees share one dtype."""
    predictor = model._predictors[0][0]
    predictor.nodes = predictor.nodes[[name for name in predictor.nodes.dtype.names if name != "num_threshold"]].copy()


@pytest.mark.parametrize("change", [without_predictors, without_baseline, with_other_nodes])
def test_trees_that_scikit_learn_keeps_otherwise_are_told(change: Callable[[Any], None], frame: pd.DataFrame) -> None:
    """What is not public may change with a version: the error names it, and the versions that are read."""
    model = HistGradientBoostingClassifier(max_iter=2).fit(frame[NAMES], frame["fraud"])
    change(model)
    with pytest.raises(ModelPackageError, match=f"scikit-learn {sklearn.__version__} keeps histogram trees") as caught:
        histogram_graph(model, [True] * 3)
    assert "below 1.10" in caught.value.next


def test_scikit_learn_is_pinned_to_the_versions_that_are_read() -> None:
    """The pin admits the installed version, whose trees the tests above convert, and not the next."""
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (pin,) = (
        requirement.specifier
        for requirement in map(Requirement, extras["optional-dependencies"]["package"])
        if requirement.name == "scikit-learn"
    )
    assert sklearn.__version__ in pin
    assert "1.7.2" in pin
    assert "1.10.0" not in pin


@pytest.mark.parametrize("read", ["class", "file"])
def test_model_stopped_early_is_read_with_its_best_trees(read: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A classifier that was saved and read again, by its class or by its file, scores with the best iteration."""
    trained = stop_early(frame)
    trained.save_model(tmp_path / "model.json")
    model: Any = tmp_path / "model.json"
    if read == "class":
        model = xgboost.XGBClassifier()
        model.load_model(tmp_path / "model.json")
    package(model, frame, name="m", out=tmp_path / "m")
    np.testing.assert_allclose(score_packaged(tmp_path / "m", frame), score(trained, frame), atol=1e-5)


def test_booster_stopped_early_keeps_all_of_its_trees(frame: pd.DataFrame, tmp_path: Path) -> None:
    """XGBoost's own `Booster.predict` asks every tree, so the packaged one does."""
    data = xgboost.DMatrix(frame[:HELD_BACK][NAMES], frame[:HELD_BACK]["fraud"])
    held = xgboost.DMatrix(frame[HELD_BACK:][NAMES], frame[HELD_BACK:]["fraud"])
    model = xgboost.train(
        {"objective": "binary:logistic"}, data, 200, evals=[(held, "held")], early_stopping_rounds=5, verbose_eval=False
    )
    package(model, frame, name="m", out=tmp_path / "m")
    expected = model.predict(xgboost.DMatrix(frame[NAMES]))
    np.testing.assert_allclose(score_packaged(tmp_path / "m", frame), expected, atol=1e-5)
