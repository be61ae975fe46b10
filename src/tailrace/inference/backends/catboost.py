"""CatBoost behind the model protocol: what splits on categories, whose statistics are no part of the trees.

CatBoost's package has no C interface of its own library, so this is its Python call, on one thread: 90 µs for one row
of a matrix. Trees on numbers are computed by the forest kernel or ONNX Runtime in a tenth of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.native import NativeModel, Predict, missing_library
from tailrace.inference.backends.table import CATBOOST
from tailrace.inference.manifest import CATBOOST_FILE
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

MAGIC: Final = b"CBM1"
KINDS: Final = frozenset({"Probability", "Exponent", "RawFormulaVal"})
"""What CatBoost calls its scores; the signature's output names one of them."""
EXPONENTIAL: Final = ("Poisson", "Tweedie")
"""Losses whose score is the exponential of what the trees sum up to."""


class CatboostModel(NativeModel):
    """A packaged model that CatBoost computes, on one thread. May be called from several threads."""

    __slots__ = ()

    backend: ClassVar[str] = CATBOOST
    file: ClassVar[str] = CATBOOST_FILE

    @staticmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes a model in a file that CatBoost wrote."""
        model, kind = load_trees(content), signature.output
        column, many = signature.column, bool(signature.classes)
        if kind not in KINDS or len(signature.feature_names) != len(model.feature_names_):
            raise ValueError(f"it takes {len(model.feature_names_)} features, and gives no {kind!r}")

        def predict(feeds: Feeds) -> NDArray[Any]:
            scores = np.asarray(
                model.predict(rows_of(feeds, signature), prediction_type=kind, thread_count=1), np.float64
            )
            return scores[:, column] if many and column is not None else scores

        return predict


def rows_of(feeds: Feeds, signature: Signature) -> Any:
    """Return rows as CatBoost takes them: a matrix, or a frame where each column is an input, some of categories."""
    specs = signature.inputs
    if len(specs) == 1:
        return feeds[specs[0].name]
    import pandas  # type: ignore[import-untyped]

    columns = {spec.features[0]: feeds[spec.name][:, 0] for spec in specs}
    return pandas.DataFrame(columns, columns=list(signature.feature_names))


def find_loss(model: Any) -> str:
    """Return the name of the loss that a CatBoost model was trained with; nothing where it does not say."""
    return str(model.get_all_params().get("loss_function", "")).partition(":")[0]


def score_kind(model: Any) -> str:
    """Return what CatBoost calls the scores of a model: those that stand behind the link of its loss."""
    if len(model.classes_):
        return "Probability"
    return "Exponent" if find_loss(model) in EXPONENTIAL else "RawFormulaVal"


def load_trees(content: bytes) -> Any:
    """Return the model in a file. CatBoost itself verifies its form, but for how long it is.

    Not what its numbers lead to: of files in which some bytes are others a hundredth ended the process.

    Raises OSError where CatBoost is not installed; ValueError for what is no such file.
    """
    size = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "little")
    if not content.startswith(MAGIC) or size > len(content):
        raise ValueError(f"it does not begin as a CatBoost model of {len(content)} bytes does")
    if find_spec("catboost") is None:
        missing_library("catboost", "catboost")
    import catboost

    try:
        return catboost.CatBoost().load_model(blob=content)
    except Exception as error:  # CatBoost's exceptions share no base of their own
        raise ValueError(f"CatBoost does not read it: {str(error).splitlines()[0][:300]}") from error
