"""A graph of a stranger's, computed once in a process of its own that may take only so much memory.

A graph may ask for memory that no file holds: a `ConstantOfShape` of 100 GB is a few bytes, and so is the product of a
column and a row of weights. What a graph's own tensors promise is seen in its bytes; what its operators make of them is
seen when it runs, or when it is opened, since constants are folded then. So one that is not seen to stay small
(`is_bounded`) is opened and run first where it can do no harm: when it is packaged, and again when it becomes part of a
release or is fetched, on its golden rows. A manifest cannot vouch for it: its maker writes that too.

Golden rows may be one, and made-up rows are. So a few copies of a row are computed too, and what the operators give is
counted: where it grows faster than the rows do, rows meet each other, and a full batch would take what a few do not.
Then full batches are computed, as a worker does when it learns what they cost: a graph may ask how many rows there are.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx_graph import check_graph
from tailrace.inference.backends.onnx_growth import is_bounded
from tailrace.inference.backends.onnx_sizes import check_sizes
from tailrace.inference.curve import SIZES
from tailrace.inference.manifest import MODEL_FILE, REPACKAGE, Cell, Manifest, to_array
from tailrace.inference.model_directory import read_in_parts, read_manifest
from tailrace.inference.signature import NUMPY_DTYPES

SPARE_BYTES: Final = 2 << 30
GROWTH_MAX: Final = 16
"""What a graph may take, beyond SPARE_BYTES, in parts of its file: a copy for each stage of its optimisation."""
LIMIT_S: Final = 60.0
_TOO_MUCH: Final = 3
_NOT_COMPUTED: Final = 4
_CROSSED: Final = 5
COPIES: Final = (2, 4, 6)
"""Of a row: of what grows with the rows, the second step is as large as the first."""
BATCHES_S: Final = 0.5
"""For full batches: four times what a worker takes to learn what they cost, so that those it runs were run here."""
_SHOWN_MAX: Final = 300
_DTYPES: Final = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64",
                  "tensor(int32)": "int32", "tensor(bool)": "bool", "tensor(string)": "string"}  # fmt: skip


class _Asked(msgspec.Struct, frozen=True):
    """inputs: rows by the input, with their dtype; None for one row of ones."""

    graph: str
    inputs: dict[str, tuple[str, list[list[Cell]]]] | None = None


class _Counted(msgspec.Struct, frozen=True):
    """output_size: of a node's outputs, in bytes."""

    output_size: str | int = 0


class _Event(msgspec.Struct, frozen=True):
    """Of ONNX Runtime's profile: a run, or a node's in it. ts, dur: when it began and how long it took, in µs."""

    name: str = ""
    ts: int = 0
    dur: int = 0
    args: _Counted = _Counted()


def probe_directory(directory: Path) -> None:
    """Raise ModelPackageError unless the graph of a model directory, if it has one, stays small on its golden rows."""
    manifest = read_manifest(directory)
    path = directory / MODEL_FILE
    if MODEL_FILE not in manifest.files:
        return
    try:
        content = read_in_parts(path)
        check_graph(content)
        if not is_bounded(content):
            check_sizes(content)
            _probe(_Asked(str(path), _golden(manifest)), len(content))
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from error


def probe_graph(content: bytes, feeds: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Raise ValueError for a graph that takes too much memory, or time, for some rows, or what a feature says.

    feeds: the rows; None makes one up, which a graph may refuse to compute: then it was opened, and no more is known.
    """
    if is_bounded(content):
        return
    check_sizes(content)
    given = None
    if feeds is not None:
        given = {name: (_name_of(array), array.reshape(len(array), -1).tolist()) for name, array in feeds.items()}
    import tempfile  # only now: a worker that settles a release has no need of it

    with tempfile.TemporaryDirectory(prefix="tailrace-probe-") as folder:
        path = Path(folder, MODEL_FILE)
        path.write_bytes(content)
        _probe(_Asked(str(path), given), len(content))


def _name_of(array: NDArray[Any]) -> str:
    return "string" if array.dtype.kind in "OUS" else array.dtype.name


def _golden(manifest: Manifest) -> dict[str, tuple[str, list[list[Cell]]]]:
    return {spec.name: (spec.dtype, manifest.golden.inputs[spec.name]) for spec in manifest.signature.inputs}


def _probe(asked: _Asked, size_bytes: int) -> None:
    """Raise ValueError unless a process of its own has computed a graph within bounds."""
    command = (sys.executable, "-P", "-m", "tailrace.release.probe")
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {LIMIT_S:g} s for a few rows") from None
    if done.returncode == 0 or (done.returncode == _NOT_COMPUTED and asked.inputs is None):
        return
    told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:_SHOWN_MAX]
    if done.returncode == _NOT_COMPUTED:
        raise ValueError(f"it cannot be computed: {told}")
    if done.returncode == _CROSSED:
        raise ValueError("it brings rows together: what it takes grows faster than they do")
    limit = _limit_bytes(size_bytes) >> 20
    raise ValueError(
        f"it takes more than {limit} MiB of memory for {SIZES[-1]} rows or fewer, or crashes: {done.returncode} {told}"
    )


def _limit_bytes(size_bytes: int) -> int:
    return SPARE_BYTES + GROWTH_MAX * size_bytes


def main() -> int:
    """Compute the graph that standard input names once, within bounds; return what became of it."""
    import onnxruntime

    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _limit_bytes(Path(asked.graph).stat().st_size)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(asked.graph).with_name(".probe"))  # a worker may write nowhere else
    try:
        session = onnxruntime.InferenceSession(asked.graph, options, providers=["CPUExecutionProvider"])
        feeds: dict[str, Any] = {}
        for tensor in session.get_inputs():
            dtype = _DTYPES[tensor.type]
            if asked.inputs is None:
                shape = [size if isinstance(size, int) and place else 1 for place, size in enumerate(tensor.shape)]
                feeds[tensor.name] = np.full(shape, "0" if dtype == "string" else 1, NUMPY_DTYPES[dtype])
            else:
                dtype, rows = asked.inputs[tensor.name]
                feeds[tensor.name] = to_array(rows, dtype, np.dtype(NUMPY_DTYPES[dtype]))
        session.run(None, feeds)
        is_crossing = _is_crossing(session, feeds)
        if not is_crossing:
            _run_batches(session, feeds)
    except MemoryError:
        return _TOO_MUCH
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        sys.stderr.write(str(error).splitlines()[0] if str(error) else type(error).__name__)
        return _TOO_MUCH if "bad_alloc" in str(error) or "allocate" in str(error).lower() else _NOT_COMPUTED
    finally:
        for profile in Path(asked.graph).parent.glob(".probe*"):
            profile.unlink()
    return _CROSSED if is_crossing else 0


def _is_crossing(session: Any, feeds: dict[str, Any]) -> bool:
    """Return whether what a graph's operators give grows faster than the rows, which are copies of the first."""
    if _is_of_fixed_rows(session):
        return False
    for count in COPIES:
        session.run(None, {name: np.repeat(rows[:1], count, axis=0) for name, rows in feeds.items()})
    events = msgspec.json.decode(Path(session.end_profiling()).read_bytes(), type=list[_Event])
    sizes = []
    for run in sorted((each for each in events if each.name == "model_run"), key=lambda each: each.ts)[-len(COPIES) :]:
        within = (each for each in events if run.ts <= each.ts < run.ts + run.dur)
        sizes.append(sum(int(each.args.output_size) for each in within))
    return len(sizes) == len(COPIES) and sizes[2] - sizes[1] > sizes[1] - sizes[0]


def _run_batches(session: Any, feeds: dict[str, Any]) -> None:
    """Compute the rows over and over in batches of every size, up to those that would take long."""
    sizes = () if _is_of_fixed_rows(session) else SIZES
    spent_s = row_s = 0.0
    for size in sizes:
        if spent_s + row_s * size > BATCHES_S:
            return
        began_s = time.perf_counter()
        session.run(None, {name: np.resize(rows, (size, *rows.shape[1:])) for name, rows in feeds.items()})
        took_s = time.perf_counter() - began_s
        spent_s, row_s = spent_s + took_s, took_s / size


def _is_of_fixed_rows(session: Any) -> bool:
    return any(isinstance(size, int) for tensor in session.get_inputs() for size in tensor.shape[:1])


if __name__ == "__main__":
    sys.exit(main())
