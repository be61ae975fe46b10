"""scikit-learn behind the model protocol: what ONNX has no form for, from a file of skops, which runs no code.

A file of skops (https://skops.readthedocs.io) names the types of which its objects are, and is loaded with those alone
that are in the manifest, and reviewed or trusted by the user (trusted_types.py). scikit-learn takes a millisecond for a
row and more, of which the frame that names the columns is 65 µs; so a model is converted where it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.archive import check_arrays
from tailrace.inference.backends.native import NativeModel, Predict, missing_library
from tailrace.inference.backends.table import SKLEARN
from tailrace.inference.backends.trusted_types import UntrustedTypesError
from tailrace.inference.manifest import SKLEARN_FILE
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature


class SklearnModel(NativeModel):
    """A packaged model that scikit-learn computes, on one thread. May be called from several threads."""

    __slots__ = ()

    backend: ClassVar[str] = SKLEARN
    file: ClassVar[str] = SKLEARN_FILE

    @staticmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes a model in a file of skops."""
        model = load_estimator(content, trusted)
        import pandas  # type: ignore[import-untyped]

        specs, names = signature.inputs, list(signature.feature_names)
        give = model.predict_proba if signature.classes else model.predict
        column = signature.column if signature.classes else None

        def predict(feeds: Feeds) -> NDArray[Any]:
            if len(specs) == 1:
                frame = pandas.DataFrame(feeds[specs[0].name], columns=names, copy=False)
            else:
                frame = pandas.DataFrame({spec.features[0]: feeds[spec.name][:, 0] for spec in specs})
            scores = np.asarray(give(frame), np.float64)
            return scores[:, column] if column is not None else scores

        return predict


def load_estimator(content: bytes, trusted: Sequence[str]) -> Any:
    """Return the estimator in a file of skops.

    Raises OSError where skops is not installed; ValueError for a file that holds other types than are trusted, or is
    not what it should be.
    """
    check_arrays(content)
    unknown = sorted(set(untrusted_types(content)) - set(trusted))
    if unknown:
        raise UntrustedTypesError(f"it holds types that are not trusted: {', '.join(unknown)}")
    import skops.io
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)  # one core is the worker's; a thread a core takes a small batch a hundred times as long
    return skops.io.loads(content, trusted=list(trusted))


def untrusted_types(content: bytes) -> tuple[str, ...]:
    """Return the types in a file of skops that skops does not know to be harmless. Raises OSError without skops."""
    if find_spec("skops") is None:
        missing_library("skops", "sklearn")
    import skops.io

    try:
        return tuple(sorted(skops.io.get_untrusted_types(data=content)))
    except Exception as error:  # skops raises whatever it meets
        raise ValueError(f"it is no file of skops: {error}") from error
