"""What `tailrace models whatif` prints: the sentence, the flips, the decisions of both sides, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace.cli.printing import plain, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from tailrace.offline.whatif.lines import LeftOut
    from tailrace.offline.whatif.report import Example, Flip, WhatIf

REASONS_SHOWN: Final = 8
FLIPS_EXPLAINED: Final = 4
EXAMPLES_SHOWN: Final = 2
WIDTH_MAX: Final = 200


def to_json(found: WhatIf, picture: Path | None) -> str:
    """Return the result as JSON; money as exact numbers."""
    import msgspec

    from tailrace.offline.whatif.changes import QUANTILES

    told = {
        "a": found.names[0],
        "b": found.names[1],
        "pipeline": found.pipeline,
        "summary": summary(found),
        "features": found.features,
        "requests": found.requests,
        "rows": found.rows,
        "flipped": found.flipped,
        "share": found.flipped / max(found.rows, 1),
        "amount": found.amount,
        "money": _money_or_none(found, found.money),
        "money_flipped": _money_or_none(found, found.money_flipped),
        "labels": found.labels,
        "decided": found.decided.tolist(),
        "flips": [_flip_json(found, flip, QUANTILES) for flip in found.ordered],
        "score_change": _quantiles_json(found.scores.quantiles(), QUANTILES),
        "samples": {"rows": found.samples, "scored_alike_by_a": found.samples_alike},
        "outcomes": found.outcomes,
        "degraded": {"rows": found.degraded_rows, "differing": found.degraded_flips, "reasons": found.degraded},
        "stale": found.stale,
        "unscored": {"a": found.unscored[0], "b": found.unscored[1]},
        "views": found.views,
        "unread": _left_out_json(found.unread),
        "others": _left_out_json(found.others),
        "faulted": _left_out_json(found.faulted),
        "unexplained": found.unexplained,
        "warnings": found.warnings,
        "picture": None if picture is None else str(picture),
    }
    return msgspec.json.Encoder(decimal_format="number").encode(told).decode()


def _flip_json(found: WhatIf, flip: Flip, quantiles: Sequence[float]) -> dict[str, Any]:
    return {
        "from": flip.before,
        "to": flip.after,
        "direction": flip.direction,
        "rows": flip.rows,
        "share": flip.rows / max(found.rows, 1),
        "money": _money_or_none(found, flip.money),
        "right": flip.right,
        "wrong": flip.wrong,
        "money_right": _money_or_none(found, flip.money_right),
        "money_wrong": _money_or_none(found, flip.money_wrong),
        "score_change": _quantiles_json(flip.changes.quantiles(), quantiles),
        "explained": flip.explained,
        "why": [{"feature": name, "mean_absolute": moved, "mean": mean} for name, moved, mean in flip.why()],
        "examples": [_example_json(example) for example in flip.examples],
    }


def _quantiles_json(found: Sequence[float], quantiles: Sequence[float]) -> dict[str, float]:
    return {f"p{quantile * 100:g}": value for quantile, value in zip(quantiles, found, strict=False)}


def _example_json(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "where": example.where,
        "score_a": example.score_before,
        "score_b": example.score_after,
        "amount": example.amount,
        "outcome": example.outcome,
        "why": example.why,
    }


def _left_out_json(left_out: LeftOut) -> dict[str, Any]:
    return {"count": left_out.count, "examples": [{"where": where, "why": why} for where, why in left_out.examples]}


def _money_or_none(found: WhatIf, money: Decimal) -> Decimal | None:
    return None if found.amount is None else money


def summary(found: WhatIf) -> str:
    """Return the result in a sentence."""
    one, other = found.names
    if not found.rows:
        return f"No request was decided by both {one} and {other}."
    if not found.flipped:
        return f"{other} decides all {found.rows:,} as {one} does."
    worth = ""
    if found.amount is not None:
        share = f" ({found.money_flipped / found.money:.2%})" if found.money > 0 else ""
        worth = f", worth {money_text(found.money_flipped)} of {money_text(found.money)}{share}"
    verb = "decision flips" if found.flipped == 1 else "decisions flip"
    share = f"{found.flipped / found.rows:.2%}"
    return f"{found.flipped:,} of {found.rows:,} {verb} ({share}) from {one} to {other}{worth}."


def money_text(money: Decimal) -> str:
    """Return money as a person reads it: two digits behind the point, or as many as it has."""
    digits = max(2, -int(money.normalize().as_tuple().exponent)) if money else 2
    return f"{money:,.{digits}f}"


def print_report(found: WhatIf, picture: Path | None) -> None:
    """Print the sentence, the tables, and what is to be known of them."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    console.print(summary(found), style="bold", soft_wrap=True)
    console.print(f"Features: {found.features}.", style="dim", soft_wrap=True)
    if found.rows:
        _print_decisions(found)
    if found.flips:
        _print_flips(found)
        _print_reasons(found)
    for flip in found.ordered:
        for line in _examples(flip):
            console.print(line, soft_wrap=True)
    for line in _notes(found):
        console.print(line, soft_wrap=True)
    if picture is not None:
        console.print(f"picture  {picture}", soft_wrap=True)


def _print_flips(found: WhatIf) -> None:
    """Print a line for each flip, those of the most money first."""
    money = [found.amount] if found.amount is not None else []
    judged = ["right", "wrong"] if found.outcomes else []
    heads = ["flip", "rows", "share", *money, *judged, "score moves", "p5", "p95"]
    table = table_of(*heads, right=tuple(heads[1:]))
    for flip in found.ordered:
        low, middle, high = flip.changes.quantiles()
        table.add_row(
            f"{plain(flip.before)} → {plain(flip.after)}", f"{flip.rows:,}", f"{flip.rows / found.rows:.2%}",
            *([money_text(flip.money)] if money else []),
            *([f"{flip.right:,}", f"{flip.wrong:,}"] if judged else []),
            f"{middle:+.3f}", f"{low:+.3f}", f"{high:+.3f}",
        )  # fmt: skip
    _print_wide(table)


def _print_reasons(found: WhatIf) -> None:
    """Print how the contributions of the features that move most change, flip by flip."""
    flips = [flip for flip in found.ordered if flip.explained][:FLIPS_EXPLAINED]
    moved: dict[str, float] = {}
    for flip in flips:
        for name, reason in flip.reasons.items():
            moved[name] = moved.get(name, 0.0) + reason.moved
    heads = [f"{plain(flip.before)} → {plain(flip.after)}" for flip in flips]
    table = table_of("why: what a feature adds, B less A", *heads, right=tuple(heads))
    for name in sorted(moved, key=lambda name: -moved[name])[:REASONS_SHOWN]:
        means = [flip.reasons[name].signed / flip.explained if name in flip.reasons else 0.0 for flip in flips]
        table.add_row(plain(name), *(f"{mean:+.2f}" for mean in means))
    if flips:
        _print_wide(table)


def _print_wide(table: Table) -> None:
    """Print a table as wide as it is, though a terminal may be narrower: a folded one is hard to read."""
    from rich.console import Console
    from rich.measure import Measurement

    for column in table.columns:
        column.no_wrap = True
    console = Console(markup=False, emoji=False, highlight=False)
    width = Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).maximum
    Console(markup=False, emoji=False, highlight=False, width=max(width, console.width)).print(table)


def _print_decisions(found: WhatIf) -> None:
    """Print how often each side decides what."""
    names = list(found.names)
    table = table_of("decision", *names, "change", right=(*names, "change"))
    before, after = found.decided.sum(axis=1), found.decided.sum(axis=0)
    for place, label in enumerate(found.labels):
        one, other = int(before[place]), int(after[place])
        cells = [f"{count:,} ({count / found.rows:.2%})" for count in (one, other)]
        table.add_row(plain(label), *cells, f"{other - one:+,}")
    _print_wide(table)


def _examples(flip: Flip) -> Iterator[str]:
    """Give a line for each of the first examples of a flip."""
    for each in flip.examples[:EXAMPLES_SHOWN]:
        worth = "" if each.amount is None else f", {money_text(each.amount)}"
        why = "".join(f", {plain(name)} {change:+.2f}" for name, change in each.why.items())
        scores = f"{each.score_before:.3f} → {each.score_after:.3f}"
        yield f"{plain(flip.before)} → {plain(flip.after)}: {plain(each.id)}{worth}, score {scores}{why}"


def _notes(found: WhatIf) -> Iterator[str]:
    """Give what is to be known of the figures."""
    yield from (f"warning: {plain(each)}" for each in found.warnings)
    if found.rows:
        low, middle, high = found.scores.quantiles()
        yield f"all scores move by {middle:+.4f} (median), from {low:+.4f} (p5) to {high:+.4f} (p95)"
    if found.samples:
        yield f"{plain(found.names[0])} scores {found.samples_alike:,} of {found.samples:,} as they were served"
    if found.outcomes:
        yield from _verdict(found)
    if found.unexplained and found.flipped:
        yield f"why is not told: {plain(found.unexplained)}"
    if found.degraded_rows:
        reasons = ", ".join(f"{count:,} {name}" for name, count in found.degraded.items())
        yield (
            f"{found.degraded_rows:,} rows are counted apart, since they are degraded ({reasons}); "
            f"{found.degraded_flips:,} of them are decided differently"
        )
    if found.stale:
        yield f"{found.stale:,} rows have features older than they may be, the same for both"
    for name, count in zip(found.names, found.unscored, strict=True):
        if count:
            yield f"{count:,} rows have no score by {plain(name)}"
    yield from _left_out(found)


def _left_out(found: WhatIf) -> Iterator[str]:
    """Give which features are not known, and which lines do not count, each with why."""
    for view, counts in found.views.items():
        whole = sum(counts.values())
        if lost := whole - counts.get("fresh", 0) - counts.get("stale", 0):
            yield f"{plain(view)}: {lost:,} of {whole:,} have its defaults"
    told = (
        (found.unread, "lines are no request"),
        (found.others, "samples are of another pipeline, or of other features"),
        (found.faulted, "requests could not be answered"),
    )
    for left_out, what in told:
        if left_out.count:
            yield f"{left_out.count:,} {what}:"
            yield from (f"  {plain(where)}: {plain(why)}" for where, why in left_out.examples)


def _verdict(found: WhatIf) -> Iterator[str]:
    """Give how many of the flips are right, in the words of those who must decide."""
    from tailrace.offline.whatif.report import DOWN, UP

    yield f"the outcome of {found.outcomes:,} rows is known"
    ups, downs = found.of(UP), found.of(DOWN)
    if not (ups or downs):
        return
    caught, missed = sum(each.right for each in ups), sum(each.wrong for each in downs)
    alarms, freed = sum(each.wrong for each in ups), sum(each.right for each in downs)
    yield f"of positive outcomes {caught:,} are decided higher, {missed:,} lower: {caught - missed:+,}"
    yield f"of negative outcomes {alarms:,} are decided higher, {freed:,} lower: {alarms - freed:+,}"
    if found.amount is not None:
        from tailrace.offline.whatif.money import total

        gained = total([*(each.money_right for each in ups), *(-each.money_wrong for each in downs)])
        yield f"in money, positive outcomes decided higher less those lower: {money_text(gained)}"
