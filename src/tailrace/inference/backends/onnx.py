"""ONNX Runtime behind the model protocol: load a packaged model, verify it, score batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx_graph import check_graph
from tailrace.inference.backends.table import ONNX_RUNTIME
from tailrace.inference.manifest import MODEL_FILE, REPACKAGE, Manifest, SessionSettings
from tailrace.inference.model_directory import read_in_parts, read_manifest
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

_LEVELS: Final = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}  # fmt: skip

Providers = Sequence[tuple[str, dict[str, Any]]]
"""Of ONNX Runtime, by name, each with its options."""
Run = Callable[[list[str], Mapping[str, NDArray[Any]], Any], Sequence[Any]]
"""The names of the outputs, the feeds, options or None → the outputs."""


class OnnxModel(PackagedModel):
    """A packaged model that ONNX Runtime computes: of any form.

    One instance may be called from one thread at a time, or from several: ONNX Runtime's sessions allow it.
    """

    __slots__ = ("_column", "_outputs", "_run", "session")

    backend: ClassVar[str] = ONNX_RUNTIME

    def __init__(self, session: Any, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.session = session
        self._outputs = [manifest.signature.output]
        self._run = find_run(session, self._outputs, self._golden_feeds)
        self._column = manifest.signature.column

    @classmethod
    def load(cls, directory: str | Path, trusted: Sequence[str] = ()) -> Self:
        """Return the model of a directory that `tailrace package` wrote.

        trusted: of no use, since its file names no types.
        Raises ModelPackageError unless the files are whole, ONNX Runtime accepts the graph, its inputs and outputs
        are those of the signature, and the golden rows get their expected scores.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        path = directory / MODEL_FILE
        if MODEL_FILE not in manifest.files:
            raise ModelPackageError(f"the model directory has no {MODEL_FILE}", where=str(directory), next=REPACKAGE)
        _check_file(path)
        providers = cls.providers(manifest.session)
        session = open_session(path, manifest.session, providers)
        if session.get_providers()[0] != providers[0][0]:  # ONNX Runtime goes on with the next one, and only warns
            raise OSError(f"ONNX Runtime cannot start its {providers[0][0]} here")
        _check_interface(session, manifest.signature, path)
        model = cls(session, manifest)
        model.check_golden(path)
        return model

    @classmethod
    def providers(cls, settings: SessionSettings) -> Providers:
        """Return what of ONNX Runtime computes it, the preferred one first, each with its options."""
        return [("CPUExecutionProvider", {})]

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores: float, shape (rows,), or (rows, classes) where the signature names no column.

        feeds: for each input of the signature an array of its dtype, (rows, features), in C order.
        Raises what ONNX Runtime raises when the graph cannot be computed; `Scorer` is the call that does not.
        """
        scores = select_scores(self._run(self._outputs, feeds, None)[0], self._column)
        return self._finish(scores, feeds) if self._unfinished else scores


def select_scores(output: NDArray[Any], column: int | None) -> NDArray[Any]:
    """Return the scores in an output of a graph: the column of a signature, or all where it names none."""
    return output[:, column] if column is not None and output.ndim == 2 else output


def find_run(session: Any, outputs: list[str], feeds: Feeds) -> Run:
    """Return the shortest way to compute a session's outputs, tried on some feeds.

    `InferenceSession.run` checks names and ownership in Python first: 6 µs a call, of 21 for one row of 200 trees. The
    method below it, which is not public, takes the same arguments and checks the names itself. A version of ONNX
    Runtime without it, or with another one, costs these 6 µs and nothing else.
    """
    below: Run | None = getattr(getattr(session, "_sess", None), "run", None)
    # ONNX Runtime's exceptions share no base of their own; if it is the feeds that are wrong, `run` will say so.
    with suppress(Exception):
        if below is not None and len(below(outputs, feeds, None)) == len(outputs):
            return below
    public: Run = session.run
    return public


def open_session(
    model: Path | bytes,
    settings: SessionSettings = SessionSettings(),  # noqa: B008 - it is frozen
    providers: Providers = (("CPUExecutionProvider", {}),),
) -> Any:
    """Return an ONNX Runtime session tuned for small batches.

    Raises ModelPackageError when ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = settings.arena
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[settings.level])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=list(providers)
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        where = "the ONNX graph" if isinstance(model, bytes) else str(model)
        raise ModelPackageError(f"ONNX Runtime refuses it: {error}", where=where, next=REPACKAGE) from error


def _check_file(path: Path) -> None:
    """Raise ModelPackageError for a graph that promises more than it holds, or whose weights lie elsewhere."""
    try:
        check_graph(read_in_parts(path))
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from error


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
