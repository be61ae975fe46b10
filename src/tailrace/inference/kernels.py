"""Which kernel computes a packaged model on this machine. It is chosen once, when a release is made.

`python -m tailrace.inference.kernels DIRECTORY [LIBRARY]` times both in a process of its own, so that the caller need
not import ONNX Runtime, which takes 35 MB, and prints what they take.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, format_duration
from tailrace.errors import TailraceError
from tailrace.inference.bitvector import LIBRARY, BitvectorModel
from tailrace.inference.manifest import KernelTimes, read_manifest
from tailrace.inference.onnx import OnnxModel

BIT_VECTORS: Final = "bit vectors"
ONNX_RUNTIME: Final = "ONNX Runtime"

GAIN_CLEAR: Final = 1.25
"""Recorded times decide where the bit vectors are so many times as fast as ONNX Runtime, whatever the rows."""
GAIN_TIED: Final = 1.05
"""Measured times that are closer are equal; the bit vectors, which need no ONNX Runtime, get it."""

ROWS_TIMED: Final = (1, 16, 64)
TURNS_MIN: Final = 9
TURNS_MAX: Final = 200
BATCHES: Final = 8
SIZE_NS_MAX: Final = NS_PER_S // 4
"""What the turns at one number of rows may take, once there were TURNS_MIN."""
MEASURE_S_MAX: Final = 3.0
"""What timing one model may take, the imports too; it takes about one second."""
REASON_CHARACTERS_MAX: Final = 200

Predict = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
Draw = Callable[[int, int], Mapping[str, NDArray[Any]]]
"""Returns the feeds of so many rows, other ones for another seed."""


class KernelChoice(msgspec.Struct, frozen=True):
    """The kernel of a model. reason: why it is not the bit vectors, or why these are not known to be the faster one."""

    name: Literal["bit vectors", "ONNX Runtime"]
    reason: str = ""


def choose_kernel(directory: Path, *, library: Path = LIBRARY) -> KernelChoice:
    """Return the fastest kernel that gives a packaged model's golden scores on this machine.

    The bit vectors do where the times in the manifest, which are of the machine that packaged it, say that they are
    clearly faster. Otherwise both kernels are timed here, in a process of their own, in about a second: the machine
    that packaged it has no say in what ONNX Runtime computes here. A tie goes to the bit vectors, and so does a failure
    to time them.
    library: the compiled bit-vector library.
    Raises ModelPackageError unless the directory is whole.
    """
    manifest = read_manifest(directory)
    if not manifest.trees_sha256:
        return KernelChoice(ONNX_RUNTIME, manifest.trees_reason or "it was packaged without bit-vector tables")
    try:
        BitvectorModel.load(directory, library=library)
    except OSError as error:
        return KernelChoice(ONNX_RUNTIME, f"the bit-vector library cannot be used: {error}")
    times = manifest.kernel_times
    if times is not None and min(_gains(times)) >= GAIN_CLEAR:
        return KernelChoice(BIT_VECTORS)
    try:
        times = _measure_apart(directory, library)
    except _MeasureError as error:
        return KernelChoice(BIT_VECTORS, f"the kernels could not be timed here: {error}")
    if _mean_gain(times) * GAIN_TIED >= 1:
        return KernelChoice(BIT_VECTORS)
    return KernelChoice(ONNX_RUNTIME, f"it is faster: {tell_times(times)}")


def measure_kernels(bit_vectors: Predict, onnx: Predict, draw: Draw) -> KernelTimes:
    """Return the median time of a call of both kernels at several numbers of rows.

    They take turns on the same batches and take turns to be first: what else the machine does in a noisy moment falls
    on both.
    """
    medians = [_time_both(bit_vectors, onnx, [draw(rows, seed) for seed in range(BATCHES)]) for rows in ROWS_TIMED]
    bits_ns, onnx_ns = zip(*medians, strict=True)
    return KernelTimes(ROWS_TIMED, bits_ns, onnx_ns)


def tell_times(times: KernelTimes) -> str:
    """Return what both kernels take, in words."""
    return "; ".join(
        f"{rows} row{'s' if rows > 1 else ''} {format_duration(onnx_ns)}, by bit vectors {format_duration(bits_ns)}"
        for rows, bits_ns, onnx_ns in zip(times.rows, times.bit_vectors_ns, times.onnx_ns, strict=True)
    )


def _gains(times: KernelTimes) -> list[float]:
    """Return how many times as long ONNX Runtime takes, at each number of rows."""
    return [onnx / bits for bits, onnx in zip(times.bit_vectors_ns, times.onnx_ns, strict=True)]


def _mean_gain(times: KernelTimes) -> float:
    gains = _gains(times)
    return float(prod(gains) ** (1 / len(gains)))


def _time_both(bit_vectors: Predict, onnx: Predict, batches: list[Mapping[str, NDArray[Any]]]) -> tuple[int, int]:
    calls = (bit_vectors, onnx)
    for predict in calls:
        predict(batches[0])
    times_ns: tuple[list[int], list[int]] = ([], [])
    end_ns = perf_counter_ns() + SIZE_NS_MAX
    for turn in range(TURNS_MAX):
        feeds = batches[turn % BATCHES]
        for which in (turn % 2, 1 - turn % 2):
            start_ns = perf_counter_ns()
            calls[which](feeds)
            times_ns[which].append(perf_counter_ns() - start_ns)
        if turn + 1 >= TURNS_MIN and perf_counter_ns() > end_ns:
            break
    return int(np.median(times_ns[0])), int(np.median(times_ns[1]))


class _MeasureError(Exception):
    """The kernels cannot be timed, for a reason in words."""


def _measure_apart(directory: Path, library: Path) -> KernelTimes:
    """Return what both kernels take, timed in a process of their own. Raises _MeasureError where that cannot be had."""
    command = (sys.executable, "-P", "-m", "tailrace.inference.kernels", str(directory), str(library))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=MEASURE_S_MAX, check=True)
        return msgspec.json.decode(done.stdout, type=KernelTimes)
    except subprocess.TimeoutExpired:
        raise _MeasureError(f"it took more than {MEASURE_S_MAX:g} s") from None
    except subprocess.CalledProcessError as error:  # ONNX Runtime is missing or refuses the graph, for instance
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise _MeasureError(lines[-1][:REASON_CHARACTERS_MAX] if lines else str(error)) from None
    except (OSError, msgspec.DecodeError) as error:
        raise _MeasureError(str(error)) from None


def main(arguments: list[str]) -> int:
    """Time both kernels on the model directory that is the first argument."""
    try:
        bit_vectors = BitvectorModel.load(arguments[1], library=Path(arguments[2]) if arguments[2:] else LIBRARY)
        times = measure_kernels(
            bit_vectors.predict,
            OnnxModel.load(arguments[1]).predict,
            lambda rows, seed: bit_vectors.sample_feeds(rows, seed=seed),
        )
    except (TailraceError, OSError) as error:
        sys.stderr.write(f"{str(error).splitlines()[0]}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(times).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
