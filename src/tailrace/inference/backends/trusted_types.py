"""Which types a file of skops may hold: decided here, and never by what lies beside the file.

Whoever writes a model directory writes its manifest too, so its list of types can only narrow what is taken. What skops
knows to be harmless is taken, and the types of REVIEWED; of others only classes of LIBRARIES that the user names. No
other function is ever taken: one that a model calls for each row may do whatever it likes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Final

LIBRARIES: Final = frozenset({"catboost", "category_encoders", "imblearn", "lightgbm", "sklearn", "xgboost"})
"""Packages whose classes a user may trust."""
REVIEWED: Final = frozenset(
    {
        "collections.OrderedDict",
        "functools.partial",
        "numpy.dtype",
        "numpy.mean",
        "numpy.number",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csc.csc_matrix",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.ExponentialLoss",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn._loss.loss.HuberLoss",
        "sklearn._loss.loss.PinballLoss",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
        "sklearn.utils.validation.check_array",
    }
)
"""What fitted estimators hold beside what skops knows: values, and functions that call no other. `partial` calls one
of these, or one that skops knows. `PyFuncDistance`, scorers and the like call what they are given, and are not here."""


class UntrustedTypesError(ValueError):
    """A file of types that are not trusted."""

    next = (
        "where you know who made it, trust classes of scikit-learn and the like, by tr.Model(..., trust=[...]); "
        "functions, and classes of others, are never loaded"
    )


def allowed_types(listed: Collection[str], trusted: Collection[str] = ()) -> tuple[str, ...]:
    """Return the types, of those that a manifest lists, with which a file may be loaded. trusted: by the user."""
    return tuple(name for name in listed if name in REVIEWED or (name in trusted and is_library_class(name)))


def is_library_class(name: str) -> bool:
    """Return whether a name is that of a class which a library of LIBRARIES defines; imports its module."""
    module, _, attribute = name.rpartition(".")
    if module.partition(".")[0] not in LIBRARIES:
        return False
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception:  # a module raises what it likes
        return False
    return isinstance(found, type) and found.__module__.partition(".")[0] in LIBRARIES


def check_trust(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of types that a user trusts. Raises ValueError for one that no library defines."""
    for name in names:
        if not isinstance(name, str) or name.partition(".")[0] not in LIBRARIES or "." not in name:
            raise ValueError(
                f"trust={name!r}: only classes of {', '.join(sorted(LIBRARIES))} can be trusted, by their full names"
            )
    return tuple(names)
