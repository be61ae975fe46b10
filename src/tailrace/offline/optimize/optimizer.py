"""The optimiser: propose, make, measure, judge; each step apart, and noted once it is finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.table import BACKENDS, ONNX_RUNTIME, backend_named, backends_of
from tailrace.inference.manifest import MANIFEST_FILE, MODEL_FILE, decode_manifest
from tailrace.inference.model_directory import read_manifest
from tailrace.inference.signature import Signature
from tailrace.offline.optimize.certainty import loss_error
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.journal import Journal, Proposed, Trial
from tailrace.offline.optimize.making import size_on_disk
from tailrace.offline.optimize.metric import Metric, choose_metric
from tailrace.offline.optimize.processes import Limits, run_apart
from tailrace.offline.optimize.question import Asked, check_numbers, key_of, read_data
from tailrace.offline.optimize.recipes import AS_PACKAGED, Recipe, recipes_of_session
from tailrace.offline.optimize.trial import Make, Measure, Propose
from tailrace.offline.optimize.verdict import Terms, Verdict, judge
from tailrace.release.exchange import drafted, written
from tailrace.release.package import package
from tailrace.release.settle import copy_model

MEASURED_MAX: Final = 3
"""How often a trial is measured in a noisy moment: where the upper bound of its speedup is over NOISE × the lower."""
NOISE: Final = 1.3

OnStep = Callable[[str, int, int], None]
"""Is told of what begins, how much is done, and how much there is as far as is known."""


class Optimised(NamedTuple):
    """What came of it. table: the data, with features and target alone. resumed: trials that an earlier run made."""

    asked: Asked
    trials: tuple[Trial, ...]
    verdict: Verdict
    metric: Metric
    baseline: Path
    directory: Path | None
    evidence: Evidence
    table: Any
    resumed: int


def optimize(asked: Asked, work: Path, on_step: OnStep = lambda step, done, whole: None) -> Optimised:
    """Return what was found in the folder `work`, which keeps what is finished, and the models that were made.

    Raises ModelPackageError for a model that cannot be packaged, data that it does not fit, a metric that the data does
    not give, a baseline that cannot be measured, or a full disk. A candidate that fails is a trial that says why.
    """
    check_numbers(asked)
    table, target = read_data(asked)
    with written(work), closing(Journal(work)) as journal:
        on_step("package", 0, 1)
        resumed = journal.begin(key_of(asked, target), asked.limits)
        if not resumed:
            _package(asked, table, target, journal)
        manifest = read_manifest(journal.baseline)
        if MODEL_FILE not in manifest.files:
            raise ModelPackageError(
                f"the model has no {MODEL_FILE}, and all candidates are made of it", where=str(asked.model),
                next="optimise the trained model's own file, or an .onnx export of it",
            )  # fmt: skip
        evidence = Evidence.gather(manifest, table, target)
        metric = choose_metric(asked.metric, manifest.signature, evidence.outcomes)
        for judges in (True, False):  # before anything is tried
            part = evidence.part(judges=judges)
            metric.measure(np.full(_scores_shape(manifest.signature, len(part.outcomes)), 0.5), part.outcomes)
        evidence.save(journal.evidence)
        before = len(journal.trials)
        terms = Terms(
            metric, asked.tolerance, asked.budget_ns, asked.threads, asked.score_change, int(evidence.judges.sum())
        )  # fmt: skip
        _Run(asked, journal, terms, evidence, on_step).run()
        verdict = judge(journal.trials, terms)
        directory = None if verdict.winner is None else _directory_of(journal, verdict.winner.recipe)
        return Optimised(
            asked, tuple(journal.trials), verdict, metric, journal.baseline, directory, evidence, table, before
        )


class _Run:
    """The trials of one run, one after another."""

    def __init__(self, asked: Asked, journal: Journal, terms: Terms, evidence: Evidence, on_step: OnStep) -> None:
        self._asked, self._journal, self._terms, self._on_step = asked, journal, terms, on_step
        self._judges = np.flatnonzero(evidence.judges)
        self._outcomes = evidence.part(judges=True).outcomes
        self._scores = journal.folder / "scores.npy"
        self._base_scores = journal.folder / "baseline.npy"
        self._done = 0
        self._whole = 1

    def run(self) -> None:
        """Try what is proposed, then ONNX Runtime's settings on the best of it."""
        self._on_step("propose", 0, 1)
        recipes = self._propose()
        settings = recipes_of_session(AS_PACKAGED, os.cpu_count() or 1)
        self._whole = len(recipes) + len(settings)
        for recipe in recipes:
            self._try(recipe)
        for recipe in () if self._asked.only else recipes_of_session(self._best(), os.cpu_count() or 1):
            self._try(recipe, (ONNX_RUNTIME,))
        for trial in _absent_gpus(self._journal.trials):
            self._journal.note(trial)

    def _propose(self) -> Sequence[Recipe]:
        if self._journal.proposed is None:
            done = run_apart(
                Propose(
                    str(self._journal.baseline),
                    str(self._journal.evidence),
                    self._asked.metric,
                    self._asked.tolerance,
                    self._asked.only,
                ),
                self._asked.limits,
            )
            if done.failed:
                raise ModelPackageError(
                    f"what to try cannot be worked out: {done.failed}", where=str(self._asked.model),
                    next="give more --memory-mb or --limit, or package the model and look at its scores",
                )  # fmt: skip
            self._journal.note(Proposed(done.recipes))
        assert self._journal.proposed is not None
        return self._journal.proposed

    def _best(self) -> Recipe:
        """Return the recipe that ONNX Runtime computes fastest, of those that fit."""
        verdict = judge(self._journal.trials, self._terms)
        fits = [
            each
            for each, standing in zip(self._journal.trials, verdict.standings, strict=True)
            if standing in {"fits", "wins", "baseline"} and each.backend == ONNX_RUNTIME
        ]
        return max(fits, key=lambda each: each.timings[0].speedup).recipe.with_session(
            threads=1, arena=False, level="all"
        )

    def _try(self, recipe: Recipe, backends: Sequence[str] = ()) -> None:
        """Make the model of a recipe and measure it by each backend that has a form of it."""
        self._on_step(recipe.name, self._done, self._whole)
        self._done += 1
        directory = _directory_of(self._journal, recipe)
        if self._journal.find(recipe, "") is not None:  # it could not be made
            return
        if not (directory / MANIFEST_FILE).is_file():
            made = run_apart(
                Make(str(self._journal.baseline), str(self._journal.evidence), recipe, str(directory)),
                self._asked.limits,
            )
            if made.failed:
                self._note(
                    Trial(recipe=recipe, backend="", status="failed", why=made.failed, limits=self._asked.limits)
                )
                return
        names = [each.name for each in backends_of(decode_manifest(directory / MANIFEST_FILE))]
        for name in sorted(names, key=lambda each: each != ONNX_RUNTIME):  # the others are compared with it
            if (not backends or name in backends) and self._is_wanted(recipe, name):
                self._note(self._measure(recipe, directory, name))

    def _is_wanted(self, recipe: Recipe, backend: str) -> bool:
        """Return whether a trial is still to come; none by a backend that this machine has not."""
        packaged = self._journal.find(AS_PACKAGED, backend)
        is_absent = packaged is not None and packaged.status == "skipped"
        return not is_absent and self._journal.find(recipe, backend) is None

    def _measure(self, recipe: Recipe, directory: Path, backend: str) -> Trial:
        """Return the trial of a recipe by a backend; of several in a noisy moment the one with the narrowest bounds."""
        trials = [self._measure_once(recipe, directory, backend)]
        while _is_noisy(trials[-1]) and len(trials) < MEASURED_MAX:
            trials.append(self._measure_once(recipe, directory, backend))
        measured = [each for each in trials if each.status == "measured"]
        return min(measured, key=_spread) if measured else trials[-1]

    def _measure_once(self, recipe: Recipe, directory: Path, backend: str) -> Trial:
        done = run_apart(
            Measure(
                str(self._journal.baseline), str(self._journal.evidence), str(directory), backend, str(self._scores),
                self._asked.batches, self._asked.seconds,
            ),
            _limits_of(backend, self._asked.limits),
        )  # fmt: skip
        if done.failed or done.skipped:
            status: Any = "failed" if done.failed else "skipped"
            limits = self._asked.limits if done.failed else None
            return Trial(recipe=recipe, backend=backend, status=status, why=done.failed or done.skipped, limits=limits)
        scores = np.load(self._scores)[self._judges]
        if recipe == AS_PACKAGED and backend == ONNX_RUNTIME:
            np.save(self._base_scores, scores)
        before = np.load(self._base_scores)
        return Trial(
            recipe=recipe, backend=backend, status="measured", size_bytes=size_on_disk(directory, backend),
            metric=self._terms.metric.measure(scores, self._outcomes),
            difference_max=float(np.abs(scores - before).max()), timings=done.timings,
            loss_error=loss_error(self._terms.metric, before, scores, self._outcomes),
        )  # fmt: skip

    def _note(self, trial: Trial) -> None:
        """Write a trial down. Raises ModelPackageError, and does not, for a baseline that could not be measured.

        All others are compared with it, so that the next run begins by measuring it again.
        """
        is_baseline = trial.recipe == AS_PACKAGED and trial.backend in {"", ONNX_RUNTIME}
        if is_baseline and trial.status != "measured":
            raise ModelPackageError(
                f"the model as packaged cannot be measured: {trial.why}",
                where=str(self._asked.model), next="give more --memory-mb or --limit",
            )  # fmt: skip
        self._journal.note(trial)


def _spread(trial: Trial) -> float:
    """Return how far the bounds of a trial's speedup are apart, as a factor."""
    return trial.timings[0].speedup_high / trial.timings[0].speedup_low


def _is_noisy(trial: Trial) -> bool:
    return trial.status == "measured" and _spread(trial) > NOISE


def _limits_of(backend: str, limits: Limits) -> Limits:
    """Return what a process may take: on a GPU it maps far more addresses than it uses, and is slow to start."""
    found = backend_named(backend)
    if found is None or not found.is_on_gpu:
        return limits
    return limits._replace(memory_mb=0, seconds=limits.seconds + found.start_s)


def _absent_gpus(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yield what a GPU could have computed and did not, with the reason."""
    tried = {trial.backend for trial in trials}
    for backend in BACKENDS:
        if backend.is_on_gpu and backend.name not in tried:
            why = "this ONNX Runtime has no provider of it: install onnxruntime-gpu in the place of onnxruntime"
            yield Trial(recipe=AS_PACKAGED, backend=backend.name, status="skipped", why=why)


def _package(asked: Asked, table: Any, target: str, journal: Journal) -> None:
    """Write the baseline: the model packaged, or a copy of its directory."""
    if asked.model.is_dir():
        with drafted(journal.baseline) as draft:
            copy_model(asked.model, draft)
    else:
        package(asked.model, table, name=asked.model.stem, out=journal.baseline, target=target,
                allow_pickle=asked.allow_pickle)  # fmt: skip


def _scores_shape(signature: Signature, rows: int) -> tuple[int, ...]:
    return (rows, signature.scores_width) if signature.scores_width > 1 else (rows,)


def _directory_of(journal: Journal, recipe: Recipe) -> Path:
    return journal.models / recipe.folder
