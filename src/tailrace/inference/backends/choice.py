"""Which backend computes a packaged model on this machine. It is chosen once, when a release is made.

`python -m tailrace.inference.backends.choice DIRECTORY NAME…` times backends in a process of its own, so that the
caller need not import them (ONNX Runtime takes 35 MB), and prints what they take.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

import msgspec
import numpy as np

from tailrace.deadline import NS_PER_S, format_duration
from tailrace.errors import ModelPackageError
from tailrace.inference.backends.table import Backend, backend_named, backends_of
from tailrace.inference.manifest import REPACKAGE, BackendTimes, Manifest
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.predictor import Feeds
from tailrace.inference.timing import Draw, Predict, draw_batches, time_call

GAIN_CLEAR: Final = 1.25
"""Recorded times decide where the preferred backend is so many times as fast as any other, whatever the rows."""
GAIN_TIED: Final = 1.05
"""Measured times that are closer are equal; the preferred backend gets it."""

ROWS_TIMED: Final = (1, 16, 64)
TURNS_MIN: Final = 9
TURNS_MAX: Final = 200
SIZE_NS_MAX: Final = NS_PER_S // 4
"""What the turns at one number of rows may take, once there were TURNS_MIN."""
MEASURE_S_MAX: Final = 1.5
"""What timing one model may take for each backend, the imports too; two take about one second."""
REASON_CHARACTERS_MAX: Final = 200


class BackendChoice(msgspec.Struct, frozen=True):
    """The backend of a model. reason: why it is not a preferred one, or why these could not be compared."""

    name: str
    reason: str = ""


class Measured(msgspec.Struct, frozen=True):
    """What was found of backends. times: None where fewer than two could be timed. refusals: why, by the name."""

    times: BackendTimes | None
    refusals: dict[str, str]


def choose_backend(directory: Path) -> BackendChoice:
    """Return the fastest backend that gives a packaged model's golden scores on this machine.

    The preferred one is it where the times in the manifest, which are of the machine that packaged it, say that it is
    clearly faster than any other. Otherwise they are timed here, in a process of their own, in about a second: the
    machine that packaged it has no say in what the others compute here. A tie goes to the preferred one, and so does a
    failure to time them.
    Raises ModelPackageError unless the directory is whole.
    """
    manifest = read_manifest(directory)
    reasons = [*manifest.reasons.values()]
    candidates = []
    for backend in backends_of(manifest):
        reason = _refusal(backend, directory) if backend.is_light else ""
        if reason:
            reasons.append(f"{backend.name} cannot compute it here: {reason}")
        else:
            candidates.append(backend)
    if not candidates:
        raise ModelPackageError(
            "no backend can compute it: " + ("; ".join(reasons) or "this Tailrace knows none of its files"),
            where=str(directory),
            next=REPACKAGE,
        )
    return _fastest(directory, manifest, candidates, reasons)


def _fastest(
    directory: Path, manifest: Manifest, candidates: Sequence[Backend], reasons: Sequence[str]
) -> BackendChoice:
    """Return the fastest of backends, by the record or by a measurement."""
    preferred = candidates[0]
    reason = "; ".join(reasons)
    if len(candidates) == 1 or _is_clear(manifest.times, candidates):
        return BackendChoice(preferred.name, reason)
    try:
        measured = _measure_apart(directory, candidates)
    except _MeasureError as error:
        return BackendChoice(preferred.name, f"the backends could not be timed here: {error}")
    refused = [f"{name} cannot compute it here: {why}" for name, why in measured.refusals.items()]
    able = [backend for backend in candidates if backend.name not in measured.refusals]
    if measured.times is None:
        return BackendChoice((able or candidates)[0].name, "; ".join([*reasons, *refused]))
    chosen = min(able, key=lambda each: _mean_ns(measured.times, each) * (1 if each is able[0] else GAIN_TIED))
    if chosen is able[0]:
        return BackendChoice(chosen.name, "; ".join([*reasons, *refused]))
    return BackendChoice(chosen.name, f"it is faster: {tell_times(measured.times, chosen.name)}")


def measure_backends(predicts: Mapping[str, Predict], draw: Draw) -> BackendTimes:
    """Return the median time of a call of each backend at several numbers of rows.

    They take turns on the same batches and take turns to be first: what else the machine does in a noisy moment falls
    on all.
    """
    calls = list(predicts.values())
    medians = [_time_each(calls, draw_batches(draw, rows)) for rows in ROWS_TIMED]
    return BackendTimes(ROWS_TIMED, dict(zip(predicts, zip(*medians, strict=True), strict=True)))


def tell_times(times: BackendTimes, name: str) -> str:
    """Return what a backend takes beside the others, in words."""
    others = [other for other in times.ns if other != name]
    return "; ".join(
        f"{rows} row{'s' if rows > 1 else ''} {format_duration(times.ns[name][at])}, "
        + ", ".join(f"by {other} {format_duration(times.ns[other][at])}" for other in others)
        for at, rows in enumerate(times.rows)
    )


def _refusal(backend: Backend, directory: Path) -> str:
    """Return why a backend cannot compute a model here, or nothing. Raises ModelPackageError for bad files."""
    try:
        backend.load(directory)
    except OSError as error:
        return str(error)
    return ""


def _is_clear(times: BackendTimes | None, candidates: Sequence[Backend]) -> bool:
    """Return whether recorded times have the first backend clearly faster than all others, whatever the rows."""
    if times is None or any(backend.name not in times.ns for backend in candidates):
        return False
    first, *others = (times.ns[backend.name] for backend in candidates)
    return all(ns >= GAIN_CLEAR * best for other in others for best, ns in zip(first, other, strict=True))


def _mean_ns(times: BackendTimes | None, backend: Backend) -> float:
    """Return the geometric mean of what a backend takes at the numbers of rows."""
    ns = times.ns[backend.name] if times is not None else ()
    return float(prod(map(float, ns)) ** (1 / len(ns)))


def _time_each(calls: Sequence[Predict], batches: Sequence[Feeds]) -> tuple[int, ...]:
    for predict in calls:
        predict(batches[0])
    times_ns: list[list[int]] = [[] for _ in calls]
    end_ns = perf_counter_ns() + SIZE_NS_MAX
    for turn in range(TURNS_MAX):
        feeds = batches[turn % len(batches)]
        for place in range(len(calls)):
            which = (turn + place) % len(calls)
            times_ns[which].append(time_call(calls[which], feeds))
        if turn + 1 >= TURNS_MIN and perf_counter_ns() > end_ns:
            break
    return tuple(int(np.median(each)) for each in times_ns)


class _MeasureError(Exception):
    """The backends cannot be timed, for a reason in words."""


def _measure_apart(directory: Path, candidates: Sequence[Backend]) -> Measured:
    """Return what backends take, timed in a process of their own. Raises _MeasureError where that cannot be had."""
    names = [backend.name for backend in candidates]
    command = (sys.executable, "-P", "-m", "tailrace.inference.backends.choice", str(directory), *names)
    limit_s = MEASURE_S_MAX * len(names) + sum(backend.start_s for backend in candidates)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=True)
        return msgspec.json.decode(done.stdout, type=Measured)
    except subprocess.TimeoutExpired:
        raise _MeasureError(f"it took more than {limit_s:g} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise _MeasureError(lines[-1][:REASON_CHARACTERS_MAX] if lines else str(error)) from None
    except (OSError, msgspec.DecodeError) as error:
        raise _MeasureError(str(error)) from None


def measure(directory: Path, names: Sequence[str]) -> Measured:
    """Return what backends take on the golden rows of a model directory, here and now."""
    models, refusals = {}, {}
    for name in names:
        backend = backend_named(name)
        try:
            models[name] = backend.load(directory) if backend else _absent(name)
        except Exception as error:  # a backend raises whatever its library does: it is missing, or refuses the file
            lines = str(error).splitlines() or [type(error).__name__]
            refusals[name] = lines[0][:REASON_CHARACTERS_MAX]
    if len(models) < 2:
        return Measured(None, refusals)
    first = next(iter(models.values()))
    predicts = {name: model.predict for name, model in models.items()}
    return Measured(measure_backends(predicts, lambda rows, seed: first.sample_feeds(rows, seed=seed)), refusals)


def _absent(name: str) -> Any:
    raise OSError(f"this Tailrace has no backend {name!r}")


def main(arguments: list[str]) -> int:
    """Time the backends that are the later arguments on the model directory that is the first."""
    sys.stdout.write(msgspec.json.encode(measure(Path(arguments[1]), arguments[2:])).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
