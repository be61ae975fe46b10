"""One piece of the work, in a process of its own: what crashes, hangs or eats memory here is a line of the table.

`python -m tailrace.offline.optimize.trial` reads a task on standard input and prints its result, both as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.backends.table import ONNX_RUNTIME
from tailrace.inference.loading import load_model
from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.layers import adds_up_shorts
from tailrace.offline.optimize.making import graph_has_layers, make, search
from tailrace.offline.optimize.metric import choose_metric
from tailrace.offline.optimize.recipes import AS_PACKAGED, Recipe, recipes_of_layers
from tailrace.offline.optimize.timing import Timing, time_pair

SCORED_TOGETHER: Final = 1_000
"""Rows of one call where all are scored, so that a candidate needs no more memory than in serving, about."""

_PR_SET_PDEATHSIG: Final = 1


class Propose(msgspec.Struct, frozen=True, tag="propose"):
    """Find the recipes that a model can be made by. evidence: the file of rows. only: as `Asked` has it."""

    baseline: str
    evidence: str
    metric: str
    tolerance: float
    only: tuple[str, ...] = ()


class Make(msgspec.Struct, frozen=True, tag="make"):
    """Make the model of a recipe, as the directory `out`."""

    baseline: str
    evidence: str
    recipe: Recipe
    out: str


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """Score all rows by a backend, into the file `scores`, and time it beside ONNX Runtime on the baseline."""

    baseline: str
    evidence: str
    directory: str
    backend: str
    scores: str
    batches: tuple[int, ...]
    seconds: float


class Task(msgspec.Struct, frozen=True):
    """What a process does. memory_bytes: of addresses that it may take; 0 for no limit."""

    work: Propose | Make | Measure
    memory_bytes: int = 0


class Done(msgspec.Struct, frozen=True):
    """What came of it. skipped: it cannot be here. failed: it went wrong. Both say why; empty where it went well."""

    recipes: tuple[Recipe, ...] = ()
    timings: tuple[Timing, ...] = ()
    skipped: str = ""
    failed: str = ""


def work_on(work: Propose | Make | Measure) -> Done:
    """Return what came of a piece of work. Raises whatever the libraries do."""
    evidence = Evidence.load(Path(work.evidence))
    baseline = Path(work.baseline)
    match work:
        case Propose():
            return Done(recipes=tuple(_propose(work, baseline, evidence)))
        case Make():
            make(baseline, work.recipe, evidence, Path(work.out))
            return Done()
        case Measure():
            return _measure(work, baseline, evidence)


def _propose(work: Propose, baseline: Path, evidence: Evidence) -> list[Recipe]:
    signature = read_manifest(baseline).signature
    metric = choose_metric(work.metric, signature, evidence.outcomes)
    layers = recipes_of_layers(reduced=not adds_up_shorts()) if graph_has_layers(baseline) else []
    known = [AS_PACKAGED, Recipe(kind="optimised graph"), *layers]
    if work.only:
        wanted = {AS_PACKAGED.name, *work.only}
        return [each for each in known if msgspec.structs.replace(each, reduced=False).name in wanted]
    return [*known, *search(baseline, evidence, metric, work.tolerance)]


def _measure(work: Measure, baseline: Path, evidence: Evidence) -> Done:
    try:
        model = load_model(work.directory, choice=BackendChoice(work.backend))
    except ModelPackageError as error:
        if isinstance(error.__cause__, OSError):
            return Done(skipped=str(error.__cause__))
        raise
    rows = len(evidence.outcomes)
    parts = []
    for start in range(0, rows, SCORED_TOGETHER):
        feeds = {
            name: np.ascontiguousarray(each[start : start + SCORED_TOGETHER]) for name, each in evidence.feeds.items()
        }
        parts.append(np.asarray(model.predict(feeds), np.float64))
    scores = np.concatenate(parts)
    if not np.isfinite(scores).all():
        return Done(failed=f"{int((~np.isfinite(scores)).sum())} scores are no numbers")
    np.save(work.scores, scores)
    judges = evidence.part(judges=True)
    base = load_model(baseline, choice=BackendChoice(ONNX_RUNTIME))
    gc.freeze()
    return Done(
        timings=tuple(
            time_pair(base.predict, model.predict, judges.draw, batch, work.seconds / len(work.batches))
            for batch in work.batches
        )
    )


def main() -> int:
    """Do the task on standard input; print what came of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody waits for it once its parent is killed
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    if task.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (task.memory_bytes, task.memory_bytes))
    try:
        done = work_on(task.work)
    except MemoryError:
        done = Done(failed="it needs more memory than --memory-mb allows")
    except Exception as error:  # the libraries raise whatever they meet
        lines = str(error).strip().splitlines() or [type(error).__name__]
        done = Done(failed=lines[0])
    sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
