"""Counts page by page what two sides decide: a table of decisions, and of each flip its money, outcomes and reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded, Provenance
from tailrace.compile.wiring import Wiring
from tailrace.offline.whatif.contributions import EXPLAINED_MAX, Contributions
from tailrace.offline.whatif.lines import Asked
from tailrace.offline.whatif.money import ZERO, exact, total
from tailrace.offline.whatif.outcomes import NEGATIVE, POSITIVE, id_text, is_right
from tailrace.offline.whatif.report import DOWN, EXAMPLES_MAX, UP, Example, Flip, Reason, WhatIf

REASONS_SHOWN: Final = 3
APART: Final = Degraded.STORE_TIMEOUT | Degraded.STORE_ERROR | Degraded.MODEL_ERROR | Degraded.MODEL_TIMEOUT
"""What makes a decision another than the side's own: such rows are counted apart."""
ALIKE: Final = 1e-5
"""How far a score may be from the served one: as far as a golden row's."""
_CLASSES: Final = 2
_STALE: Final = np.uint8(Degraded.STALE_FEATURES)


class Page(NamedTuple):
    """Requests that were replayed together. asked: of each; before, after: their batches."""

    asked: Sequence[Asked]
    before: Batch
    after: Batch

    def of_row(self, row: int) -> Asked:
        """Return the request that makes a row."""
        places = self.before.row_request
        return self.asked[row if places is None else int(places[row])]


class Tally:
    """Counts into a report.

    wirings: of both sides. labels: of both, in the order of their decisions. Of the same bands, or
    the same two classes, the later stands for a likelier positive outcome. id_field: of a request, for examples and
    outcomes; None takes lines. outcomes: by id.
    """

    def __init__(
        self,
        report: WhatIf,
        wirings: Sequence[Wiring],
        labels: Sequence[tuple[str, ...]],
        contributions: Contributions,
        *,
        id_field: str | None,
        outcomes: Mapping[str, str],
    ) -> None:
        self._report = report
        self._contributions = contributions
        self._has_order = labels[0] == labels[1] and (bool(report.edges[0]) or len(labels[0]) == _CLASSES)
        self._places = [np.array([report.labels.index(each) for each in own]) for own in labels]
        self._views = [view.__name__ for view in wirings[0].views]
        self._id: Callable[[Any], Any] | None = None if id_field is None else attrgetter(id_field)
        self._amount = None if report.amount is None else attrgetter(report.amount)
        self._outcomes = outcomes
        self._first_id = ""
        self._strange_outcome: str | None = None

    def add(self, page: Page) -> None:
        """Count a page."""
        report = self._report
        report.requests += len(page.asked)
        if page.asked and not self._first_id:
            self._first_id = self._id_of(page.asked[0])
        before, after = (
            places[np.asarray(batch.decisions)]
            for places, batch in zip(self._places, (page.before, page.after), strict=True)
        )
        rows = self._counted(page, before != after).nonzero()[0]
        np.add.at(report.decided, (before[rows], after[rows]), 1)
        report.rows += len(rows)
        if self._amount is not None:
            amounts = [exact(self._amount(page.of_row(row).requests[0])) for row in rows.tolist()]
            report.money = total([report.money, *amounts])
        scores = [np.asarray(batch.scores, np.float64)[rows] for batch in (page.before, page.after)]
        report.scores.add(*scores)
        self._compare_served(page, rows, scores[0])
        if self._outcomes or any(each.outcome is not None for each in page.asked):
            report.outcomes += sum(self._outcome(page.of_row(row)) is not None for row in rows.tolist())
        flipped = rows[before[rows] != after[rows]]
        for one, other in sorted(set(zip(before[flipped].tolist(), after[flipped].tolist(), strict=True))):
            own = flipped[(before[flipped] == one) & (after[flipped] == other)]
            self._add_flips(page, own, one, other)
        self._count_views(page)

    def warn_of_outcomes(self, label: str | None) -> None:
        """Warn of outcomes that are of no request that was replayed, or that nothing is judged by.

        label: what they are called in each line, where they are in no file.
        """
        report = self._report
        if self._outcomes and report.rows and not report.outcomes:
            report.warnings.append(
                f"no outcome is of a request that was replayed: the file has ids such as "
                f"{next(iter(self._outcomes))!r}, the requests such as {self._first_id!r}"
            )
        elif label is not None and report.rows and not report.outcomes:
            report.warnings.append(f"no line has an outcome {label!r}, among the fields of its request or beside them")
        if self._strange_outcome is not None:
            report.warnings.append(
                f"an outcome such as {self._strange_outcome!r} judges nothing: it is no decision, and none of "
                f"{', '.join(sorted(POSITIVE | NEGATIVE))}"
            )

    def _compare_served(self, page: Page, rows: NDArray[np.intp], scores: NDArray[np.float64]) -> None:
        """Count the rows that A scores as they were served: all of them, where A is what served."""
        values = [each.sample.score for each in page.asked if each.sample is not None]
        flat = values if page.before.row_bounds is None else [score for each in values for score in each]
        if len(flat) == page.before.rows:
            served = np.array([np.nan if each is None else each for each in flat], np.float64)[rows]
            self._report.samples += len(rows)
            self._report.samples_alike += int(np.isclose(scores, served, rtol=ALIKE, atol=ALIKE).sum())

    def _counted(self, page: Page, differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows both sides scored as they are meant to; count the others. differs: of the decisions."""
        report, bits = self._report, np.zeros(page.before.rows, np.uint8)
        counted = np.ones(page.before.rows, np.bool_)
        unscored = list(report.unscored)
        for side, batch in enumerate((page.before, page.after)):
            bits |= 0 if batch.degraded is None else batch.degraded
            if batch.failed is not None:
                unscored[side] += int(batch.failed.sum())
                counted &= ~batch.failed
        report.unscored = (unscored[0], unscored[1])
        for reason in APART:
            if found := int((counted & ((bits & np.uint8(reason)) != 0)).sum()):
                name = str(reason.name).lower()
                report.degraded[name] = report.degraded.get(name, 0) + found
        apart = counted & ((bits & np.uint8(APART)) != 0)
        report.degraded_rows += int(apart.sum())
        report.degraded_flips += int((apart & differs).sum())
        counted &= ~apart
        report.stale += int((counted & ((bits & _STALE) != 0)).sum())
        return counted

    def _add_flips(self, page: Page, rows: NDArray[np.intp], one: int, other: int) -> None:
        """Count rows that A decides as label `one`, B as label `other`."""
        flip = self._flip(one, other)
        scores = [np.asarray(batch.scores, np.float64)[rows] for batch in (page.before, page.after)]
        flip.rows += len(rows)
        flip.changes.add(*scores)
        asked = [page.of_row(row) for row in rows.tolist()]
        amounts = None if self._amount is None else [exact(self._amount(each.requests[0])) for each in asked]
        if amounts is not None:
            flip.money = total([flip.money, *amounts])
        for place, each in enumerate(asked):
            self._judge(flip, one, other, self._outcome(each), None if amounts is None else amounts[place])
        examples = [
            Example(
                self._id_of(each), each.where, float(scores[0][place]), float(scores[1][place]),
                None if amounts is None else amounts[place], self._outcome(each),
            )
            for place, each in enumerate(asked)
        ]  # fmt: skip
        self._explain(flip, page, rows, examples)

    def _explain(self, flip: Flip, page: Page, rows: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Keep the examples that tell most, and learn why these rows flip: the first of a flip, and the examples."""
        kept = sorted(range(len(examples)), key=lambda place: _weight(examples[place]))[:EXAMPLES_MAX]
        first = min(len(rows), max(EXPLAINED_MAX - flip.explained, 0))
        places = sorted({*range(first), *kept})
        changes = dict(zip(places, self._contributions.changes((page.before, page.after), rows[places]), strict=False))
        for place in range(first) if changes else ():
            flip.explained += 1
            for name, change in changes[place].items():
                reason = flip.reasons.setdefault(name, Reason())
                reason.moved += abs(change)
                reason.signed += change
        told = [replace(examples[place], why=_largest(changes.get(place, {}))) for place in kept]
        flip.examples = sorted([*flip.examples, *told], key=_weight)[:EXAMPLES_MAX]

    def _flip(self, one: int, other: int) -> Flip:
        labels, flips = self._report.labels, self._report.flips
        if (one, other) not in flips:
            direction = (UP if other > one else DOWN) if self._has_order else ""
            flips[one, other] = Flip(labels[one], labels[other], direction)
        return flips[one, other]

    def _judge(self, flip: Flip, one: int, other: int, outcome: str | None, amount: Decimal | None) -> None:
        """Count whether a flip is right."""
        labels = self._report.labels
        verdict = is_right(one, other, labels, outcome) if flip.direction or outcome in labels else None
        if verdict is None:
            if outcome is not None and outcome not in labels and outcome.lower() not in POSITIVE | NEGATIVE:
                self._strange_outcome = outcome
            return
        if verdict:
            flip.right += 1
            flip.money_right = total([flip.money_right, amount or ZERO])
        else:
            flip.wrong += 1
            flip.money_wrong = total([flip.money_wrong, amount or ZERO])

    def _outcome(self, asked: Asked) -> str | None:
        if asked.outcome is not None or not self._outcomes or self._id is None:
            return asked.outcome
        return self._outcomes.get(id_text(self._id(asked.requests[0])))

    def _id_of(self, asked: Asked) -> str:
        return asked.where if self._id is None else str(self._id(asked.requests[0]))

    def _count_views(self, page: Page) -> None:
        """Count where the values of each view are from, as the first side has them."""
        for name, rows in zip(self._views, page.before.view_rows, strict=True):
            counts = self._report.views.setdefault(name, {})
            for value, count in zip(*np.unique(rows.provenance, return_counts=True), strict=True):
                told = Provenance(int(value)).name.lower()
                counts[told] = counts.get(told, 0) + int(count)


def _weight(example: Example) -> tuple[Decimal, float]:
    """Return what orders examples, those that tell most first."""
    return (-(example.amount or ZERO), -abs(example.score_after - example.score_before))


def _largest(changes: Mapping[str, float]) -> dict[str, float]:
    names = sorted(changes, key=lambda name: -abs(changes[name]))[:REASONS_SHOWN]
    return {name: changes[name] for name in names}
