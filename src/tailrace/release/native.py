"""The form of a trained model that its own library computes: what ONNX has no form for, or what is faster so."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.catboost import score_kind
from tailrace.inference.backends.choice import measure_backends
from tailrace.inference.backends.native import NativeModel, Predict
from tailrace.inference.backends.onnx import find_run, select_scores
from tailrace.inference.backends.sklearn import untrusted_types
from tailrace.inference.backends.table import CATBOOST, LIGHTGBM, ONNX_RUNTIME, PYTORCH, SKLEARN, XGBOOST, backend_named
from tailrace.inference.backends.trusted_types import allowed_types
from tailrace.inference.manifest import CATBOOST_FILE, PYTORCH_FILE, SKLEARN_FILE, BackendTimes
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.release.comparison import Comparison
from tailrace.release.convert import Converted, find_inputs, require_columns
from tailrace.release.original import Original
from tailrace.release.rows import read_rows
from tailrace.release.table import column_dtype, spread_rows
from tailrace.release.trees import INPUT, OUTPUT

GAIN: Final = 1.05
"""A form is kept for its speed where it is so many times as fast as ONNX Runtime, on average over the rows timed."""

ROWS_TRIED: Final = 8
"""Rows that a program is tried on."""

_BACKENDS: Final = {"lightgbm": LIGHTGBM, "xgboost": XGBOOST}
"""Of the frameworks, by their names in a manifest."""
MAYBE_FASTER: Final = frozenset(_BACKENDS)
"""Frameworks whose library may be faster than ONNX Runtime."""


@dataclass(frozen=True, slots=True)
class NativeForm:
    """A trained model in its library's form.

    backend: computes it. file: its name in a model directory. signature: as it takes a batch. trusted: the types that
    it may hold, where its form names types.
    """

    backend: str
    file: str
    content: bytes
    signature: Signature
    trusted: tuple[str, ...] = ()

    def open(self, signature: Signature | None = None) -> Predict:
        """Return what computes it. signature: that of the directory, where it is another one."""
        found = _model_of(self.backend)
        try:
            return found.open(self.content, signature or self.signature, self.trusted)
        except (OSError, ValueError) as error:
            raise ModelPackageError(
                f"{self.backend} does not read what it wrote: {error}",
                where="model",
                next=f"install the {self.backend} that trained it, and train it again",
            ) from error


class NativeSession:
    """A model in its library's form behind ONNX Runtime's one call, for a comparison with the original."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict

    def run(self, outputs: Sequence[str], feeds: Feeds, options: Any = None) -> list[NDArray[Any]]:
        """Return the scores: the one output there is."""
        return [self._predict(feeds)]


def native_form(original: Original, table: Any, target: str | None) -> NativeForm | None:
    """Return a model as its library takes it; None for a model whose library has no form that is safe to load.

    The inputs are of the type that the library computes with: so it gives the original's scores exactly.
    Raises ModelPackageError for data without a feature of the model.
    """
    if original.framework == "pytorch":
        return _torch_form(original, table, target)
    if original.framework == "catboost":
        return _catboost_form(original, table)
    if original.framework == "scikit-learn":
        return _sklearn_form(original, table)
    name = _BACKENDS.get(original.framework)
    if name is None:
        return None
    names = original.features or ()
    require_columns(names, table)
    if name == LIGHTGBM:
        content, dtype = original.model.model_to_string().encode(), "float64"
    else:
        content, dtype = bytes(original.model.save_raw("ubj")), "float32"
    inputs = (TensorSpec(INPUT, dtype, names),)
    signature = Signature.of_scores(inputs, OUTPUT, original.classes)
    return NativeForm(name, _model_of(name).file, content, signature)


def _catboost_form(original: Original, table: Any) -> NativeForm:
    """Return a model as CatBoost writes it: one matrix, or one input a column where some are categories."""
    names = original.features or ()
    require_columns(names, table)
    if original.framed:
        dtypes = {name: column_dtype(table, name) for name in names}
        inputs = tuple(TensorSpec(name, dtypes[name], (name,)) for name in names)
    else:
        inputs = (TensorSpec(INPUT, "float32", names),)
    signature = Signature.of_classes(inputs, score_kind(original.model), original.classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CATBOOST_FILE
        original.model.save_model(str(path))
        return NativeForm(CATBOOST, CATBOOST_FILE, path.read_bytes(), signature)


def _sklearn_form(original: Original, table: Any) -> NativeForm | None:
    """Return an estimator as skops writes it; None where skops is not installed, or cannot write it.

    Numbers are doubles, as scikit-learn has them: one matrix, or one input a column where there are texts.
    """
    if find_spec("skops") is None:
        return None
    import skops.io

    try:
        content = skops.io.dumps(original.model)
        trusted = untrusted_types(content)
    except Exception:  # skops raises whatever it meets; then the model has no form of its own
        return None
    refused = sorted(set(trusted) - set(allowed_types(trusted, trusted)))
    if refused:
        raise ModelPackageError(
            f"it holds what no server loads: {', '.join(refused)}",
            where="model",
            next="use no function of your own in it, and classes of scikit-learn and the like alone",
        )
    names = original.features or ()
    require_columns(names, table)
    dtypes = {name: column_dtype(table, name) for name in names}
    if "string" in dtypes.values():
        kinds = {name: "float64" if dtype == "float32" else dtype for name, dtype in dtypes.items()}
        inputs = tuple(TensorSpec(name, kinds[name], (name,)) for name in names)
    else:
        inputs = (TensorSpec(INPUT, "float64", names),)
    signature = Signature.of_classes(inputs, OUTPUT, original.classes)
    return NativeForm(SKLEARN, SKLEARN_FILE, content, signature, trusted)


def _torch_form(original: Original, table: Any, target: str | None) -> NativeForm:
    """Return a program as PyTorch takes it; what it gives a row is found by computing some."""
    inputs = find_inputs(original.model.inputs(), table, target)
    rows = read_rows(spread_rows(table, ROWS_TRIED), tuple(name for spec in inputs for name in spec.features))
    drafted = NativeForm(PYTORCH, PYTORCH_FILE, original.model.content, Signature(inputs, OUTPUT))
    predict = drafted.open()
    try:
        scores = predict(rows.feeds(inputs))
    except Exception as error:  # what PyTorch raises shares no base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelPackageError(
            f"the program cannot be computed on {len(rows)} rows of the data: {lines[0][:300]}",
            where="model",
            next="export it for any number of rows, with dynamic_shapes, and for the data's columns",
        ) from error
    width = scores.shape[1] if scores.ndim == 2 else 1
    classes = tuple(range(width)) if width > 1 else ()
    return replace(drafted, signature=Signature.of_classes(inputs, OUTPUT, classes))


def without_graph(form: NativeForm) -> Converted:
    """Return what stands for a conversion where a model has its library's form alone."""
    return Converted(b"", form.signature, session=NativeSession(form.open()))


def time_beside_onnx(form: NativeForm, chosen: Comparison, feeds: Feeds) -> BackendTimes:
    """Return what a call takes by ONNX Runtime and by a model's own library, on rows of the data."""
    signature = chosen.signature
    outputs = [signature.output]
    run = find_run(chosen.session, outputs, {name: array[:1] for name, array in feeds.items()})
    rows = len(next(iter(feeds.values())))

    def draw(count: int, seed: int) -> Feeds:
        picked = np.random.default_rng(seed).integers(0, rows, count)
        return {name: np.ascontiguousarray(array[picked]) for name, array in feeds.items()}

    return measure_backends(
        {
            ONNX_RUNTIME: lambda given: select_scores(run(outputs, given, None)[0], signature.column),
            form.backend: form.open(signature),
        },
        draw,
    )


def is_faster(times: BackendTimes, backend: str) -> bool:
    """Return whether a model's own library is faster than ONNX Runtime, on average over the rows timed."""
    ratios = np.divide(times.ns[ONNX_RUNTIME], times.ns[backend])
    return bool(np.exp(np.log(ratios).mean()) >= GAIN)


def _model_of(backend: str) -> type[NativeModel]:
    """Return the class of a backend whose form is a library's own."""
    found = backend_named(backend)
    assert found is not None, "the table has it"
    model: type[NativeModel] = getattr(import_module(f"tailrace.inference.backends.{found.module}"), found.model)
    return model
