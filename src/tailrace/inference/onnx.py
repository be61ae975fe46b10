"""ONNX Runtime behind the model protocol: load a packaged model, verify it, score batches."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import MODEL_FILE, REPACKAGE, Manifest, read_manifest
from tailrace.inference.signature import Signature

GOLDEN_TOLERANCE: Final = 1e-5
"""How far a score may be from the expected one: absolute up to a score of 1, relative above."""


class OnnxModel:
    """A packaged model, ready to score. Satisfies `tailrace.types.Model`.

    One instance may be called from one thread at a time, or from several: ONNX Runtime's sessions allow it.
    """

    __slots__ = (
        "_column",
        "_floats",
        "_golden_feeds",
        "_outputs",
        "_run",
        "manifest",
        "session",
        "signature",
        "version",
    )

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self.session = session
        self.manifest = manifest
        self.signature: Signature = manifest.signature
        self.version: str = manifest.sha256[:12]
        # The inputs to look for NaN in, where the graph would give a row with NaN another score than the original does.
        self._floats = tuple(
            spec.name
            for spec in self.signature.inputs
            if spec.dtype.startswith("float") and not manifest.source.missing
        )
        # InferenceSession.run checks names and ownership in Python first: 6 µs a call, of 21 for one row of 200 trees.
        # What lies under it takes the same arguments, and checks the names itself.
        self._run = getattr(getattr(session, "_sess", None), "run", session.run)
        self._golden_feeds = manifest.golden.feeds(manifest.signature)
        self._outputs = [manifest.signature.output]
        self._column = manifest.signature.column

    @classmethod
    def load(cls, directory: str | Path, *, threads: int = 1) -> OnnxModel:
        """Return the model of a directory that `tailrace package` wrote.

        threads: ONNX Runtime's threads for one call; one is best for the small batches of a worker that owns a core.
        Raises ModelPackageError unless the files are whole, ONNX Runtime accepts the graph, its inputs and outputs
        are those of the signature, and the golden rows get their expected scores.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        path = directory / MODEL_FILE
        session = open_session(path, threads=threads)
        _check_interface(session, manifest.signature, path)
        model = cls(session, manifest)
        _check_golden(model, path)
        return model

    def predict(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the scores: float, shape (rows,), or (rows, classes) where the signature names no column.

        feeds: for each input of the signature an array of its dtype, (rows, features), in C order.
        Raises what ONNX Runtime raises when the graph cannot be computed; `Scorer` is the call that does not.
        """
        scores = select_scores(self._run(self._outputs, feeds, None)[0], self._column)
        if self._floats:
            for name in self._floats:
                if isnan(feeds[name].sum()):  # a NaN, or infinities of both signs
                    scores = np.where(_has_nan(feeds[name], scores.ndim), np.nan, scores)
        return scores

    def sample_feeds(self, rows: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Return golden rows in a random order, as many as asked for, to warm the model and measure it with.

        Real rows, since equal ones mislead: a processor that can foresee every branch of every tree computes 64 equal
        rows in a quarter of the time that 64 different ones take.
        """
        picked = np.random.default_rng(seed).integers(0, len(self.manifest.golden.scores), rows)
        return {name: np.ascontiguousarray(array[picked]) for name, array in self._golden_feeds.items()}


def select_scores(output: NDArray[Any], column: int | None) -> NDArray[Any]:
    """Return the scores in an output of a graph: the column of a signature, or all where it names none."""
    return output[:, column] if column is not None and output.ndim == 2 else output


def _has_nan(matrix: NDArray[Any], ndim: int) -> NDArray[np.bool_]:
    """Return which rows hold a NaN, as (rows,) or, to go with a matrix of scores, (rows, 1)."""
    rows: NDArray[np.bool_] = np.isnan(matrix).any(axis=1)
    return rows if ndim == 1 else rows[:, np.newaxis]


def open_session(model: Path | bytes, *, threads: int = 1) -> Any:
    """Return an ONNX Runtime session tuned for small batches.

    Raises ModelPackageError when ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # no slower for these graphs, and the arena never gives back a large batch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        where = "the ONNX graph" if isinstance(model, bytes) else str(model)
        raise ModelPackageError(f"ONNX Runtime refuses it: {error}", where=where, next=REPACKAGE) from error


def score_error(scores: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return each score's distance from the expected one: absolute up to 1, relative above; NaN equals NaN.

    A score that is finite where the other is not is infinitely far.
    """
    scores, expected = np.asarray(scores, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(scores - expected) / np.maximum(np.abs(expected), 1.0)
    same = (scores == expected) | (np.isnan(scores) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _check_interface(session: Any, signature: Signature, path: Path) -> None:
    """Raise ModelPackageError unless the graph has the signature's inputs and its output."""
    inputs = {tensor.name for tensor in session.get_inputs()}
    outputs = {tensor.name for tensor in session.get_outputs()}
    wanted = {spec.name for spec in signature.inputs}
    if inputs != wanted or signature.output not in outputs:
        raise ModelPackageError(
            f"the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}; the manifest's signature says "
            f"{sorted(wanted)} and {signature.output!r}",
            where=str(path),
            next=REPACKAGE,
        )


def _check_golden(model: OnnxModel, path: Path) -> None:
    """Raise ModelPackageError unless every golden row gets its expected score."""
    golden = model.manifest.golden
    expected = np.array(golden.scores, np.float64)
    try:
        scores = model.predict(golden.feeds(model.signature))
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise ModelPackageError(
            f"the golden rows cannot be scored: {error}", where=str(path), next=REPACKAGE
        ) from error
    found = scores.reshape(len(scores), -1)
    if found.shape != expected.shape:
        raise ModelPackageError(
            f"the golden rows get scores of shape {found.shape}; the manifest expects {expected.shape}",
            where=str(path),
            next=REPACKAGE,
        )
    distances = score_error(found, expected).max(axis=1)
    worst = int(distances.argmax())
    if distances[worst] > GOLDEN_TOLERANCE:
        raise ModelPackageError(
            f"golden row {worst} gets the score {found[worst].tolist()} where {expected[worst].tolist()} is expected",
            where=str(path),
            next="this machine's ONNX Runtime does not compute what was packaged: " + REPACKAGE,
        )
