"""`tailrace features`: what the online store knows of one entity, as a request would see it, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.features.explanation import Explanation
    from tailrace.offline.inspection import InspectedView
    from tailrace.pipeline import Pipeline

_SPARKS: Final = "▁▂▃▄▅▆▇█"
_PARTS_MAX: Final = 50
"""Printed of one column."""


def features(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    entity: Annotated[
        str, typer.Argument(metavar="ENTITY", help="The entity's name, as in customer.", show_default=False)
    ],
    entity_id: Annotated[
        str, typer.Argument(metavar="ID", help="Which one: its id, as in 4021 or 4021,77.", show_default=False)
    ],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="As of when, as in 2026-01-31T12:00; UTC without a zone.")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="List what is behind each number of a stream view.")] = False,
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared ones: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each view.")] = False,
) -> None:
    """Show every view of one entity: its values, where they come from, and, with --why, the events behind them.

    Views whose key is a column of these are shown too: of an item, those of its category.

    For example:

        tailrace features pipeline.py customer 4021 --why
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.features.stores.opening import open_writer
    from tailrace.offline.forget import ids_of
    from tailrace.offline.inspection import inspect_entity
    from tailrace.offline.pipeline_views import key_types
    from tailrace.offline.source_keys import key_type_of

    now_ns = time.time_ns() if at is None else _time_of(at)
    found = 0
    for pipeline in load_pipelines(file):
        specs = [view.spec for view in pipeline.views if view.spec.entity.name == entity]
        if not specs:
            continue
        others = [view.spec for view in pipeline.views if view.spec.entity.name != entity]
        found += 1
        own_id = ids_of(entity_id, {key_type_of(key_types(pipeline), specs[0].entity)})[0]
        with closing(open_writer(_url(pipeline, store), create=False)) as writer:
            views = inspect_entity(specs, own_id, writer, now_ns, others)
        _print(pipeline, views, entity, why=why, as_json=as_json)
    if not found:
        raise SetupError(f"no view is of an entity {entity!r}", where=str(file), next="name an entity of the views")


def _url(pipeline: Pipeline, store: str | None) -> str:
    from tailrace.features.stores.opening import resolve_url

    return store or resolve_url(pipeline.store, pipeline.base_dir)


def _time_of(text: str) -> int:
    """Return a time in ns since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SetupError(f"{text!r} is no time", where="--at", next="write it as 2026-01-31T12:00") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6) * 1_000


def _print(pipeline: Pipeline, views: Sequence[InspectedView], entity: str, *, why: bool, as_json: bool) -> None:
    if as_json:
        for view in views:
            told = asdict(view)
            if not why:
                del told["explanations"]
            print(json.dumps({"pipeline": pipeline.name, **told}), flush=True)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(emoji=False)  # a text that reads :x: is shown as it is
    for view in views:
        table = Table(
            title=f"\n[bold]{pipeline.name}.{view.view}[/] {_origin(view, entity)}",
            title_justify="left",
            title_style="",
        )
        for name, justify in (("column", "left"), ("value", "right"), ("window", "left"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        explained = {each.name: each for each in view.explanations}
        for name, value in view.values.items():
            table.add_row(name, escape(_shown(value)), *_window(explained.get(name)))
        console.print(table)
        for each in view.explanations if why else ():
            for line in _parts(each):
                console.print(line, highlight=False, soft_wrap=True)


def _origin(view: InspectedView, entity: str) -> str:
    from rich.markup import escape

    if view.entity_id is None:
        return f"[yellow]{view.provenance}[/]: no {view.entity} is known"
    whose = f"of {view.entity} {escape(str(view.entity_id))}: " if view.entity != entity else ""
    return whose + _stored(view)


def _stored(view: InspectedView) -> str:
    if view.written_ns is None:
        return f"[yellow]{view.provenance}[/]: nothing is stored"
    return f"[dim]{view.provenance}, written {_clock(view.written_ns)}, {view.bytes:,} bytes[/]"


def _window(explanation: Explanation | None) -> tuple[str, str]:
    if explanation is None:
        return "", ""
    begin = "all of it" if explanation.begin_ns is None else f"from {_clock(explanation.begin_ns, seconds=False)}"
    return begin, sparkline(explanation.counts)


def _parts(explanation: Explanation) -> Iterator[str]:
    """Yield a line, as markup, for each entry behind a column, the latest first."""
    from rich.markup import escape

    if not explanation.parts:
        return
    yield f"\n[bold]{explanation.name}[/]"
    for part in explanation.parts[: -_PARTS_MAX - 1 : -1]:
        what = "tile" if part.event_id is None else f"event {part.event_id}"
        leaves = "stays" if part.leaves_ns is None else f"until {_clock(part.leaves_ns)}"
        # Padded first: what escapes a bracket takes no room.
        shown = escape(f"  {_clock(part.at_ns)}  {what:<14} {_shown(part.value):>10}")
        yield f"{shown}  [dim]{leaves}[/]"
    if len(explanation.parts) > _PARTS_MAX:
        yield f"  [dim]and {len(explanation.parts) - _PARTS_MAX:,} earlier[/]"


def sparkline(counts: Sequence[int]) -> str:
    """Return a bar for each count; a blank for none."""
    most = max(counts, default=0)
    return "".join(_SPARKS[(count * len(_SPARKS) - 1) // most] if count else " " for count in counts)


def _clock(time_ns: int, *, seconds: bool = True) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def _shown(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
