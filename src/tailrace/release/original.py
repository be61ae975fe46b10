"""A trained model as its own framework has it: what features it was trained on, and the scores it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.catboost import score_kind
from tailrace.inference.calibration import Calibration
from tailrace.inference.manifest import Vocabulary
from tailrace.release.calibration import read_fitted
from tailrace.release.categories import find_nulls, find_vocabularies
from tailrace.release.model_file import read_model
from tailrace.release.refusals import NoGraphError
from tailrace.release.rows import Rows
from tailrace.release.torch_program import TorchProgram

NAMED = "train it on a DataFrame (or a data set with feature names), so that no column can take another's place"


@dataclass(frozen=True, slots=True)
class Original:
    """A trained model.

    framework: "lightgbm", "xgboost", "catboost", "scikit-learn", "pytorch" or "none" (an ONNX file). model: what is
    converted.
    features: the names it was trained on, in order; None for an ONNX file, whose columns are the data's.
    classes: a classifier's labels; empty for a regression.
    nulls: what stands for a null in the texts where a scikit-learn model knows one, by feature: None or NaN.
    vocabularies: the categories that its encoders know, by feature.
    calibration: what `raw`, the score before it, goes through; `score` is the one behind. margin: `raw` is no
        probability but what stands before it, a `decision_function`. framed: both take a DataFrame.
    has_steps: isotonic curves stand inside the model.
    score: takes a float64 matrix (rows, features) or, for scikit-learn, a pandas DataFrame; returns float64 scores of
        shape (rows,), the probability of the second class for two classes, or (rows, classes) for more.
    refusal: why it has no form in ONNX; None where it may have one.
    """

    framework: str
    version: str
    model_type: str
    model: Any
    features: tuple[str, ...] | None
    classes: tuple[int | str, ...]
    score: Callable[[Any], NDArray[np.float64]] | None
    nulls: Mapping[str, Any] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    calibration: Calibration | None = None
    raw: Callable[[Any], NDArray[np.float64]] | None = None
    margin: bool = False
    framed: bool = False
    has_steps: bool = False
    refusal: NoGraphError | None = None

    def score_rows(self, rows: Rows) -> NDArray[np.float64]:
        """Return the framework's own scores of the rows as they are. Raises what the framework raises."""
        assert self.score is not None, "an ONNX file has no original"
        return self.score(self._given(rows))

    def score_raw(self, rows: Rows) -> NDArray[np.float64]:
        """Return the scores before the calibration. Raises what the framework raises."""
        assert self.raw is not None, "it is not calibrated"
        return self.raw(self._given(rows))

    def _given(self, rows: Rows) -> Any:
        """Return rows as the framework takes them."""
        if self.framework == "pytorch":
            return rows.columns  # some may be vectors
        return rows.frame() if self.framed else rows.matrix()

    def calibrated(self, calibration: Calibration) -> Original:
        """Return the model with a calibration behind it. Raises ModelPackageError where it takes none."""
        self.check_calibration()
        raw = self.score
        assert raw is not None, "checked above"
        return replace(self, calibration=calibration, raw=raw, score=lambda rows: calibration.apply(raw(rows)))

    def check_calibration(self) -> None:
        """Raise ModelPackageError unless it has two classes, and no calibration."""
        if self.calibration is not None or self.score is None or len(self.classes) != 2:
            what = "is calibrated already" if self.calibration is not None else "is no classifier of two classes"
            raise ModelPackageError(
                f"the {self.model_type} {what}",
                where="calibrate",
                next="leave out --calibrate, and package it as it is",
            )


def load_original(model: Any, *, is_calibrated: bool = False, allow_pickle: bool = False) -> Original:
    """Return the trained model in an object or a file.

    model: a LightGBM, XGBoost, CatBoost or scikit-learn model, or a path: .txt (LightGBM), .json or .ubj (XGBoost),
    .cbm (CatBoost), .skops (scikit-learn), .pt2 (PyTorch), .onnx, .pkl or .joblib (a pickle, where `allow_pickle` says
    that it is trusted).
    is_calibrated: it stands inside a CalibratedClassifierCV, so that its scores need be no probabilities.
    Raises ModelPackageError for anything else, or a model trained without feature names.
    """
    where = type(model).__name__
    if isinstance(model, str | Path):
        where = str(model)
        model = read_model(Path(model), allow_pickle=allow_pickle)
    if isinstance(model, TorchProgram):
        return Original("pytorch", model.version, "ExportedProgram", model, None, (), model.score)
    if isinstance(model, bytes):
        return Original("none", "", "onnx", model, None, (), None)
    for read in (_from_lightgbm, _from_xgboost, _from_catboost, partial(_from_sklearn, is_calibrated=is_calibrated)):
        original = read(model, where)
        if original is not None:
            return original
    raise ModelPackageError(
        f"a {type(model).__module__}.{type(model).__name__} is not a model that can be packaged",
        where=where,
        next="give a LightGBM, XGBoost, CatBoost or scikit-learn model, or export it to ONNX and give the .onnx file",
    )


def _is_from(model: Any, package: str) -> bool:
    """Return whether the model's class, or one it inherits from, is of a package; imports nothing."""
    return any(base.__module__.partition(".")[0] == package for base in type(model).__mro__)


def _from_lightgbm(model: Any, where: str) -> Original | None:
    if not _is_from(model, "lightgbm"):
        return None
    import lightgbm

    classes: tuple[int | str, ...] = ()
    if isinstance(model, lightgbm.LGBMModel):
        classes = tuple(_plain(label) for label in getattr(model, "classes_", ()))
        booster = model.booster_
    else:
        booster = model
    names = tuple(booster.feature_name())
    if names == tuple(f"Column_{index}" for index in range(len(names))):
        raise ModelPackageError("the LightGBM model was trained without feature names", where=where, next=NAMED)
    if booster.pandas_categorical:
        raise ModelPackageError(
            "the LightGBM model was trained on pandas category columns, whose codes live only in the training frame",
            where=where,
            next="train it on numbers: encode the categories in the feature view or a scikit-learn pipeline",
        )
    objective = str(booster.dump_model(num_iteration=1)["objective"] or "").partition(" ")[0]
    if not classes and objective in {"binary", "multiclass", "multiclassova"}:
        classes = tuple(range(max(2, booster.num_model_per_iteration())))

    def score(matrix: Any) -> NDArray[np.float64]:
        return np.asarray(booster.predict(np.asarray(matrix, np.float64)), np.float64)

    return Original("lightgbm", lightgbm.__version__, type(model).__name__, booster, names, classes, score)


def _from_xgboost(model: Any, where: str) -> Original | None:
    if not _is_from(model, "xgboost"):
        return None
    import xgboost

    classes: tuple[int | str, ...] = ()
    if isinstance(model, xgboost.XGBModel):
        booster = model.get_booster()
        if isinstance(model, xgboost.XGBClassifier):
            classes = tuple(_plain(label) for label in model.classes_)
    else:
        booster = model
    best = booster.attr("best_iteration")
    if best and (booster is not model or booster.attr("scikit_learn")):
        booster = booster[: int(best) + 1]  # as the class predicts; a file of it has the second attribute
    if not booster.feature_names:
        raise ModelPackageError("the XGBoost model was trained without feature names", where=where, next=NAMED)
    refusal = _xgboost_refusal(booster, where)
    names = tuple(booster.feature_names)
    booster = booster.copy()
    booster.feature_names = None  # the converter wants f0, f1, …; the order is fixed by `names`
    if refusal is None:
        booster.feature_types = None
    config = _xgboost_config(booster)
    if not classes and config["objective"]["name"].startswith(("binary:", "multi:")):
        classes = tuple(range(max(2, int(config["learner_model_param"]["num_class"]))))

    def score(matrix: Any) -> NDArray[np.float64]:
        return np.asarray(booster.inplace_predict(np.asarray(matrix, np.float32)), np.float64)

    return Original("xgboost", xgboost.__version__, type(model).__name__, booster, names, classes, score,
                    refusal=refusal)  # fmt: skip


def _xgboost_refusal(booster: Any, where: str) -> NoGraphError | None:
    """Return why a booster is not converted; XGBoost itself may compute it.

    Raises ModelPackageError for one that is not served at all: of no trees, or of categories whose codes live only in
    the training frame. From 3.1 on the model file has the categories of a frame; before, it does not tell that from
    categories that were trained on as numbers.
    """
    import json

    found: dict[str, Any] = json.loads(booster.save_raw(raw_format="json"))
    booster_found = found["learner"]["gradient_booster"]
    kind = _xgboost_kind(booster_found)
    next_kind = "train it with booster='gbtree', and without rate_drop"
    if kind not in {"gbtree", "dart"}:
        raise ModelPackageError(
            f"the XGBoost model is of the booster {kind!r}, which is not converted", where=where, next=next_kind
        )
    next_type = "train it on columns of numbers"
    if "c" in (booster.feature_types or ()):
        known = booster_found.get("model", {}).get("cats", {}).get("enc", ())
        if found["version"] < [3, 1] or any(len(each.get("values", ())) for each in known):
            raise ModelPackageError(
                "the XGBoost model was trained on category columns, whose codes live only in the training frame",
                where=where,
                next=next_type + ", such as the categories' codes, with feature_types='c' for these",
            )
        return NoGraphError("the XGBoost model was trained on category columns", where=where, next=next_type)
    if kind == "dart":
        what = f"the XGBoost model is of the booster {kind!r}, which is not converted"
        return NoGraphError(what, where=where, next=next_kind)
    return None


def _xgboost_kind(found: dict[str, Any]) -> str:
    """Return "gbtree" for a plain sum of trees, "dart" for one with a weight for each tree, else the booster's name.

    found: the booster in the model file that XGBoost documents. Told by what is in it: since 3.4 the name of both is
    "gbtree".
    """
    model: dict[str, Any] = found.get("model", {})
    if any(weight != 1.0 for weight in model.get("weight_drop", ())):
        return "dart"
    name = str(found["name"])
    return name if name != "gbtree" or "trees" in model else "one without trees"


def _xgboost_config(booster: Any) -> dict[str, Any]:
    import json

    learner: dict[str, Any] = json.loads(booster.save_config())["learner"]
    return learner


def _from_catboost(model: Any, where: str) -> Original | None:
    if not _is_from(model, "catboost"):
        return None
    import catboost

    names = tuple(str(name) for name in model.feature_names_)
    if names == tuple(map(str, range(len(names)))):
        raise ModelPackageError("the CatBoost model was trained without feature names", where=where, next=NAMED)
    next_type = "train it on numbers: encode the categories in the feature view"
    if len(model.get_text_feature_indices()) or len(model.get_embedding_feature_indices()):
        what = "the CatBoost model was trained on texts or embeddings, which are not served"
        raise ModelPackageError(what, where=where, next=next_type)
    what = "the CatBoost model was trained on categories, whose statistics are no part of the trees"
    by_name = len(model.get_cat_feature_indices()) > 0
    refusal = NoGraphError(what, where=where, next=next_type) if by_name else None
    classes = tuple(_plain(label) for label in model.classes_)
    kind = score_kind(model)

    def score(rows: Any) -> NDArray[np.float64]:
        given = rows if by_name else np.asarray(rows, np.float64)
        scores = np.asarray(model.predict(given, prediction_type=kind), np.float64)
        return scores[:, 1] if len(classes) == 2 else scores

    return Original("catboost", catboost.__version__, type(model).__name__, model, names, classes, score,
                    refusal=refusal, framed=by_name)  # fmt: skip


def _from_sklearn(model: Any, where: str, *, is_calibrated: bool) -> Original | None:
    if not _is_from(model, "sklearn") or not hasattr(model, "predict"):
        return None
    import sklearn

    names = getattr(model, "feature_names_in_", None)
    if names is None:
        raise ModelPackageError("the scikit-learn model was trained without feature names", where=where, next=NAMED)
    classes = tuple(_plain(label) for label in getattr(model, "classes_", ()))
    if classes and not hasattr(model, "predict_proba") and not is_calibrated:
        raise ModelPackageError(
            f"the classifier {type(model).__name__} gives no probabilities",
            where=where,
            next="wrap it in sklearn.calibration.CalibratedClassifierCV",
        )

    def score(frame: Any) -> NDArray[np.float64]:
        if not classes:
            return np.asarray(model.predict(frame), np.float64)
        scores = np.asarray(model.predict_proba(frame), np.float64)
        return scores[:, 1] if len(classes) == 2 else scores

    features = tuple(str(name) for name in names)
    members: list[Any] = getattr(model, "calibrated_classifiers_", [])
    if len(members) == 1 and len(classes) == 2:
        return _from_calibrated(model, members[0], features, classes, score)
    return Original(
        "scikit-learn", sklearn.__version__, type(model).__name__, model, features, classes, score,
        nulls=find_nulls(model, features), vocabularies=find_vocabularies(model, features), framed=True,
        has_steps=any(hasattr(curve, "X_thresholds_") for member in members for curve in member.calibrators),
    )  # fmt: skip


def _from_calibrated(
    model: Any, member: Any, features: tuple[str, ...], classes: tuple[int | str, ...], score: Callable[[Any], Any]
) -> Original:
    """Return a CalibratedClassifierCV of one member: its classifier, and the calibration of what that gives."""
    inner = member.estimator.estimator if type(member.estimator).__name__ == "FrozenEstimator" else member.estimator
    base = load_original(inner, is_calibrated=True)
    margin = hasattr(inner, "decision_function")  # what scikit-learn calibrates where there is one
    if base.features != features:
        raise ModelPackageError(
            "the classifier inside it was trained on other columns", where=type(model).__name__, next=NAMED
        )

    def raw(frame: Any) -> NDArray[np.float64]:
        return np.asarray(inner.decision_function(frame) if margin else inner.predict_proba(frame)[:, 1], np.float64)

    return replace(
        base, model_type=f"{type(model).__name__} of {base.model_type}", classes=classes, score=score,
        calibration=read_fitted(member.calibrators[0]), raw=raw, margin=margin, framed=True,
    )  # fmt: skip


def _plain(label: Any) -> int | str:
    """Return a class label as Python's int or str."""
    value = label.item() if isinstance(label, np.generic) else label
    return int(value) if isinstance(value, bool | int | float) and int(value) == value else str(value)
