"""`tailrace forget`: remove one entity from the online stores, for good."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.features.views import ViewSpec
    from tailrace.pipeline import Pipeline


def forget(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    entity: Annotated[
        str, typer.Argument(metavar="ENTITY", help="The entity's name, as in customer.", show_default=False)
    ],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="Which one: its id.", show_default=False)],
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared ones: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    undo: Annotated[bool, typer.Option("--unforget", help="Let the sources bring the entity back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each store.")] = False,
) -> None:
    """Remove one entity from every view, every schema, and keep it away.

    A tombstone is left in the store, so that no materialisation brings the entity back until it is unforgotten. A
    running server answers its next request with defaults. The sources are left as they are.

    For example:

        tailrace forget examples/fraud/pipeline.py customer 4021
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.features.stores.opening import open_writer
    from tailrace.offline import forget as forgetting

    specs = [(pipeline, view.spec) for pipeline in load_pipelines(file) for view in pipeline.views]
    names = sorted({spec.entity.name for _, spec in specs})
    if entity not in names:
        raise SetupError(f"no entity is called {entity!r}", where=str(file),
                         next=f"choose from {', '.join(names)}" if names else "the file declares no view")  # fmt: skip
    ids = forgetting.ids_of(entity_id)
    for url in _stores(specs, entity, store):
        with closing(open_writer(url)) as writer:
            told: dict[str, object] = {"store": url.rpartition("@")[2], "id": entity_id}
            if undo:
                told |= {"entity": entity, "unforgotten": forgetting.unforget(writer, entity, ids)}
                text = "may be brought back" if told["unforgotten"] else "was not forgotten"
            else:
                report = forgetting.forget(writer, entity, ids, [spec for _, spec in specs], time.time_ns())
                told |= asdict(report)
                text = f"forgotten; {report.removed} rows removed, of {', '.join(report.views)}"
        print(json.dumps(told) if as_json else f"{entity} {entity_id}: {text}")


def _stores(specs: Sequence[tuple[Pipeline, ViewSpec]], entity: str, store: str | None) -> list[str]:
    """Return the stores that may hold an entity, each once."""
    from tailrace.features.stores.opening import resolve_url, store_identity

    if store is not None:
        return [store]
    urls = [resolve_url(each.store, each.base_dir) for each, spec in specs if spec.entity.name == entity]
    return list({store_identity(url): url for url in urls}.values())
