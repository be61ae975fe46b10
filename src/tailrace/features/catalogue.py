"""The catalogue: one row of the store for each view says whose it is, and which of its schemas are whole.

    tailrace:catalogue:CustomerProfile    {"source": …, "pipelines": […], "schemas": {"1a2b3c4d": {…}}}

A materialisation writes it, a worker looks at it once, when it starts. Nothing looks at it while serving.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tailrace.errors import StoreError
from tailrace.features.keys import row_name

NEVER_NS = -(1 << 62)
"""Before every time."""
NOTHING_FROM_NS = 1 << 62
"""Behind every time: from then on events are counted into a definition of a stream view that is to go."""
OLD_LAYOUT = ""
"""In place of a schema's name: the rows of the layout before, whose keys end with the view's name."""


class SchemaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One schema of a view in a store. Counts are of its last whole run.

    text: what its id is made of. is_whole: a run has reached its end. at_ns: when a run last began or ended with it,
    since the epoch. ended_ns: when one last reached its end; 0 where that is not known. whole_ns: since when it is
    whole and no other schema was run in between; 0 where it is not so. is_mixed: rows of the source before may be
    there, since no run of it has ended after a take-over. begins_ns: of a stream view: events from then on, since the
    epoch, are counted as they come, older ones from history.
    """

    entity: str
    text: str = ""
    is_whole: bool = False
    is_mixed: bool = False
    at_ns: int = 0
    ended_ns: int = 0
    whole_ns: int = 0
    run: int = 0
    read: int = 0
    entities: int = 0
    bad: int = 0
    later: int = 0
    begins_ns: int = NEVER_NS

    @property
    def is_fit(self) -> bool:
        """Whether a server may read it: it has every row, and of one source."""
        return self.is_whole and not self.is_mixed

    @property
    def is_retiring(self) -> bool:
        """Whether a run removes its states, of a stream view: nobody may count into it, or serve it."""
        return self.begins_ns == NOTHING_FROM_NS


class ViewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a store notes of one view.

    source: as it is declared. place: the source's path, absolute. folder: of the pipeline's file that last wrote it.
    pipelines: that share the view, all on this source.
    """

    source: str
    place: str
    folder: str = ""
    pipelines: tuple[str, ...]
    schemas: dict[str, SchemaRecord] = {}


def schema_name(schema_id: int) -> str:
    """Return how the catalogue names a schema."""
    return f"{schema_id:08x}"


def key_end(view: str, schema: str) -> str:
    """Return what the keys of a view's rows end with, behind the brace."""
    return row_name(view, int(schema, 16)) if schema != OLD_LAYOUT else view


def catalogue_key(view: str) -> bytes:
    """Return the key of a view's record; no entity's key begins so."""
    return b"tailrace:catalogue:%b" % view.encode()


def use_key(view: str, schema: str) -> bytes:
    """Return the key under which a store notes who counts events into a schema of a stream view, and until when."""
    return b"tailrace:use:{%b:%b}" % (view.encode(), schema.encode())


def old_progress_key(view: str) -> bytes:
    """Return the key under which the layout before kept how far a materialisation had come."""
    return b"tailrace:materialize:%b" % view.encode()


def read_record(get: Callable[[bytes], bytes | None], view: str) -> ViewRecord | None:
    """Return what a store notes of a view, None where it notes nothing. Raises StoreError for what cannot be read."""
    stored = get(catalogue_key(view))
    return None if stored is None else decode_record(view, stored)


def decode_record(view: str, stored: bytes) -> ViewRecord:
    """Return a record from its bytes. Raises StoreError for what is none."""
    try:
        return msgspec.json.decode(stored, type=ViewRecord)
    except msgspec.DecodeError as error:
        raise StoreError(f"the catalogue's row of {view} cannot be read: {error}",
                         next="use the version of Tailrace that wrote it, or another store") from None  # fmt: skip
