"""`tailrace forget`: remove one entity from the online stores, for good."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.errors import SetupError, StoreError

if TYPE_CHECKING:
    from tailrace.features.keys import EntityId
    from tailrace.features.view_spec import ViewSpec
    from tailrace.pipeline import Pipeline


def forget(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    entity: Annotated[
        str, typer.Argument(metavar="ENTITY", help="The entity's name, as in customer.", show_default=False)
    ],
    entity_id: Annotated[
        str, typer.Argument(metavar="ID", help="Which one: its id, as in 4021 or 4021,77.", show_default=False)
    ],
    store: Annotated[
        str | None, typer.Option(help="Online store in place of the declared ones: lmdb:PATH or redis://HOST:PORT/DB.")
    ] = None,
    undo: Annotated[bool, typer.Option("--unforget", help="Let the sources bring the entity back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each store.")] = False,
) -> None:
    """Remove one entity from every view, every schema, and keep it away.

    A tombstone is left in the store, so that no materialisation brings the entity back until it is unforgotten. A
    running server answers its next request with defaults. The sources are left as they are, and so is the prediction
    log, whose lines go by their age. Where one store cannot be opened, the entity is removed from the others all the
    same, and the exit code is 1.

    For example:

        tailrace forget examples/fraud/pipeline.py customer 4021

    An entity of several fields is named by their values in order, as a line of CSV: 4021,77 or 4021,"a,b".
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.offline.forget import ids_of
    from tailrace.offline.pipeline_views import key_types
    from tailrace.offline.source_keys import key_type_of

    specs = [(pipeline, view.spec) for pipeline in load_pipelines(file) for view in pipeline.views]
    names = sorted({spec.entity.name for _, spec in specs})
    if entity not in names:
        raise SetupError(f"no entity is called {entity!r}", where=str(file),
                         next=f"choose from {', '.join(names)}" if names else "the file declares no view")  # fmt: skip
    own = [(pipeline, spec) for pipeline, spec in specs if spec.entity.name == entity]
    ids = ids_of(entity_id, {key_type_of(key_types(pipeline), spec.entity) for pipeline, spec in own})
    failed = False
    for url in _stores(own, store):
        told: dict[str, object] = {"store": url.rpartition("@")[2], "entity": entity, "id": str(ids[0])}
        try:
            done, text = _exchange(url, entity, ids, [spec for _, spec in specs], undo=undo)
        except StoreError as error:
            failed = True
            if as_json:
                print(json.dumps(told | {"error": error.what, "where": error.where, "next": error.next}))
            print(f"error: {error}", file=sys.stderr)
            continue
        print(json.dumps(told | done) if as_json else f"{entity} {ids[0]}: {text}")
    if failed:
        raise typer.Exit(1)


def _exchange(
    url: str, entity: str, ids: Sequence[EntityId], specs: Iterable[ViewSpec], *, undo: bool
) -> tuple[dict[str, object], str]:
    """Forget or unforget an entity in one store; return what came of it, for a program and for a person."""
    from tailrace.features.stores.opening import open_writer
    from tailrace.offline.forget import forget, unforget

    with closing(open_writer(url, create=False)) as writer:
        if undo:
            was_forgotten = unforget(writer, entity, ids)
            return {"unforgotten": was_forgotten}, "may be brought back" if was_forgotten else "was not forgotten"
        report = forget(writer, entity, ids, specs, time.time_ns())
    text = f"forgotten; {report.removed} rows removed, of {', '.join(report.views)}"
    return asdict(report), text if report.removed else "nothing was stored of it; it stays away"


def _stores(own: Sequence[tuple[Pipeline, ViewSpec]], store: str | None) -> list[str]:
    """Return the stores that may hold the entity of some views, each once."""
    from tailrace.features.stores.opening import resolve_url, store_identity

    if store is not None:
        return [store]
    urls = [resolve_url(pipeline.store, pipeline.base_dir) for pipeline, _ in own]
    return list({store_identity(url): url for url in urls}.values())
