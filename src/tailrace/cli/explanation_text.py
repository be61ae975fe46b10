"""An explanation as a person reads it in a terminal: what was asked, what was decided of what, in what time."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from tailrace.cli.printing import plain, print_table, table_of
from tailrace.offline.explanation.document import (
    Again,
    Answered,
    Explanation,
    Feature,
    LayerTime,
    Replay,
    Rescored,
    Row,
)

BAR: Final = 24
WIDTH: Final = 110
ROWS_MAX: Final = 20
"""Rows of a request that are shown whole; --json has all."""
_AGES: Final = (("d", 86_400), ("h", 3_600), ("m", 60))
_US_PER_MS: Final = 1_000


def print_explanation(found: Explanation) -> None:
    """Print all of it, the requests apart from each other."""
    if not found.answered:
        print(f"{plain(found.request_id)} is not in the log")
    for place, answered in enumerate(found.answered):
        if place:
            print()
        _print_answered(found, answered, place)
    for line in _searched(found):
        print(line)


def _searched(found: Explanation) -> Iterator[str]:
    """Give where it was looked for, and what could not be."""
    searched = found.searched
    hours = f"{searched.first_hour} to {searched.last_hour} UTC" if searched.first_hour else "no hour"
    rows = "" if searched.rows is None else f" of {searched.rows:,} rows"
    if not found.answered:
        yield (
            f"searched: {searched.log}, {', '.join(searched.pipelines) or 'no pipeline'}: {hours}, "
            f"{searched.files:,} whole files{rows} and {searched.drafts:,} still written"
        )
    for each in searched.passed_over:
        yield f"not searched: {each.file}: {plain(each.why)}"


def _print_answered(found: Explanation, answered: Answered, place: int) -> None:
    for line in _head(found, answered, place):
        print(line)
    print()
    print("request", plain(json.dumps(answered.request, ensure_ascii=False, default=str)))
    if answered.coalesced:
        print(
            f"answered by another request's computation ({plain(answered.coalesced)}):",
            plain(json.dumps(answered.answer)),
        )
    if answered.redacted:
        print("masked in it:", ", ".join(map(plain, answered.redacted)))
    for row in answered.rows[:ROWS_MAX]:
        print()
        _print_row(answered, row)
    if len(answered.rows) > ROWS_MAX:
        print(f"\n{len(answered.rows) - ROWS_MAX:,} rows more: --json has all")
    print()
    _print_times(answered)
    if answered.replay is not None:
        _print_replay(answered, answered.replay)


def _head(found: Explanation, answered: Answered, place: int) -> Iterator[str]:
    """Give what tells this answer from others."""
    when = "" if answered.time is None else answered.time.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    yield f"{plain(found.request_id)}  {plain(answered.pipeline)}  {when}"
    if len(found.answered) > 1:
        of_call = f", item {answered.item + 1} of {answered.items} of one call" if answered.items > 1 else ""
        yield f"answer {place + 1} of {len(found.answered)} under this id{of_call}"
    if answered.copies > 1:
        yield f"the log has it {answered.copies} times, all the same: an observer that dies may write a line again"
    if answered.client or answered.trace:
        yield "  ".join(
            f"{name} {plain(value)}" for name, value in (("from", answered.client), ("trace", answered.trace)) if value
        )
    models = ", ".join(f"{each.name} {each.registered or each.version} ({each.backend})" for each in answered.models)
    yield plain(f"release {answered.release}{': ' + models if models else ''}")
    if answered.release_note:
        yield plain(answered.release_note)
    if answered.error:
        yield f"answered with an error: {plain(answered.error)}"


def _print_row(answered: Answered, row: Row) -> None:
    parts = [f"row {row.row}:" if len(answered.rows) > 1 else "", _decided(row.score, row.decision, row.failed)]
    parts += [f"  rules: {', '.join(row.reasons)}"] if row.reasons else []
    parts += [f"  degraded: {', '.join(row.degraded)}"] if row.degraded else []
    ways = {name: way for name, way in row.branches.items() if way is not None}
    parts += [f"  by {', '.join(f'{name}: {way}' for name, way in ways.items())}"] if ways else []
    print(plain(" ".join(filter(None, parts))))
    has_views = any(each.view for each in row.features)
    has_adds = any(each.adds is not None for each in row.features)
    headers = ["feature", "value", *(["source", "age"] if has_views else []), *(["adds", ""] if has_adds else [])]
    table = table_of(*headers, right=("value", "age", "adds"))
    most = max((abs(each.adds or 0.0) for each in row.features), default=0.0)
    for each in row.features:
        cells = [plain(each.name), "redacted" if each.is_redacted else shown(each.value)]
        cells += [plain(each.provenance), age(each.age_s)] if has_views else []
        cells += ["" if each.adds is None else f"{each.adds:+.4f}", _bar(each, most)] if has_adds else []
        table.add_row(*cells)
    if row.features:
        _print_wide(table)
    if row.unexplained:
        print(f"no contributions: {plain(row.unexplained)}")


def _print_wide(table: Any) -> None:
    """Print a table as wide as it is where nobody's terminal would fold it."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(table)


def _decided(score: Any, decision: str | None, failed: bool) -> str:
    if failed:
        return "no score"
    return f"{decision or 'no decision'} at {shown(score)}"


def _bar(feature: Feature, most: float) -> str:
    if not feature.adds or not most:
        return ""
    return ("▶" if feature.adds > 0 else "◀") * max(round(abs(feature.adds) / most * BAR / 2), 1)


def _print_times(answered: Answered) -> None:
    """Print the time of each layer, as bars, beside what it may take."""
    most = max([answered.budget_us or 0, answered.whole_us, 1])
    table = table_of("layer", "ms", "of", "", right=("ms", "of"))
    waited = LayerTime(layer="queue", took_us=answered.wait_us)
    whole = LayerTime(layer="whole", took_us=answered.whole_us, budget_us=answered.budget_us)
    for each in (waited, *answered.layers, whole):
        bar = "█" * round(each.took_us / most * BAR)
        over = "  over its budget" if each.budget_us and each.took_us > each.budget_us else ""
        table.add_row(each.layer, _ms(each.took_us), _ms(each.budget_us) if each.budget_us else "", bar + over)
    print_table(table)


def _print_replay(answered: Answered, replay: Replay) -> None:
    print("\nscored again, from the features that were served:", plain(_verdict(replay.logged)))
    store = f" ({plain(replay.store)})" if replay.store else ""
    print(f"scored again, from the store as it is now{store}:", plain(_verdict(replay.now)))
    table = table_of("row", "", "score", "decision", "rules")
    for row in answered.rows[:ROWS_MAX]:
        for name, each in _differing(replay, row):
            table.add_row(
                str(row.row), name, shown(each.score), plain(each.decision or ""), plain(", ".join(each.reasons))
            )
    if table.row_count:
        print_table(table)
    _print_changed(replay)


def _differing(replay: Replay, row: Row) -> Sequence[tuple[str, Row | Again]]:
    """Return what a row was scored each time; nothing where it was the same."""
    sides = (("with the features of then", replay.logged), ("with those of now", replay.now))
    again = [(name, each) for name, side in sides for each in side.rows if each.row == row.row]
    return [] if all(each.is_equal for _, each in again) else [("served", row), *again]


def _print_changed(replay: Replay) -> None:
    table = table_of("row", "feature", "then", "now", right=("then", "now"))
    for row in replay.now.rows[:ROWS_MAX]:
        for each in row.changed:
            table.add_row(str(row.row), plain(each.name), shown(each.then), shown(each.now))
    if table.row_count:
        print_table(table)


def _verdict(rescored: Rescored) -> str:
    """Return what came of scoring again, in a sentence."""
    if rescored.fault:
        return f"not possible: {rescored.fault}"
    return "equal, to the bit" if rescored.is_equal else f"it differs: {'; '.join(rescored.why) or 'see below'}"


def shown(value: Any) -> str:
    """Return a value as it is read: a float with all the digits that tell it from others."""
    match value:
        case None:
            return "none"
        case float():
            return _short(value)
        case list() if len(value) > 4:
            return f"[{', '.join(map(shown, value[:3]))}, … {len(value)} in all]"
        case list():
            return f"[{', '.join(map(shown, value))}]"
    return plain(value)


def _short(value: float) -> str:
    """Return the fewest digits that tell a number from others: of those of 32 bits, where it is one of them."""
    with suppress(OverflowError, ValueError):
        single = struct.pack("f", value)
        if struct.unpack("f", single)[0] == value:
            shorter = (float(f"{value:.{digits}g}") for digits in range(1, 10))
            value = next((each for each in shorter if struct.pack("f", each) == single), value)
    return repr(value).removesuffix(".0")


def age(seconds: float | None) -> str:
    """Return how old something is, in its largest units: "2 d 3 h", "4.2 s"; "" where that is not known."""
    if seconds is None:
        return ""
    sign, left = ("-", -seconds) if seconds < 0 else ("", seconds)
    for place, (unit, size) in enumerate(_AGES):
        if left >= size:
            whole, rest = divmod(left, size)
            smaller, smaller_size = _AGES[place + 1] if place + 1 < len(_AGES) else ("s", 1)
            return f"{sign}{whole:.0f} {unit} {rest // smaller_size:.0f} {smaller}"
    return f"{sign}{left:.1f} s"


def _ms(took_us: int | None) -> str:
    return "" if took_us is None else f"{took_us / _US_PER_MS:.3f}"
