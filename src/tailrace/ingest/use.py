"""Who counts events into which definition of a stream view: the store notes the start, each minute and the end of it.

Nobody removes the states of a definition that is in use. And it says what one lacks: while nobody used it and another
definition was used, events were counted into the other alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.features.catalogue import NEVER_NS, read_record, schema_name, use_key
from tailrace.features.keys import TOMBSTONE
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.watermark import read_watermark, watermark_key

USE_NOTE_S: Final = 60.0
"""How often whoever counts events into a definition notes it, at least."""
SILENT_NS: Final = 90 * NS_PER_S
"""Whoever has noted nothing for so long, by the wall clock, counts no more."""
USERS_MAX: Final = 256
"""Users of one definition that are kept by name; of more, those that noted last."""
LAPSED: Final = "a view lacks events that were counted into another definition of it alone"


class Use(msgspec.Struct, frozen=True):
    """What a store notes of the use of one definition.

    until_ns: when it was used last, as far as that is noted, since the epoch; 0 for never. users: when each that has
    not ended noted so last, by its name.
    """

    until_ns: int = 0  # first: a store tells two values apart by their first bytes
    users: dict[str, int] = {}

    def is_going_on(self, now_ns: int) -> bool:
        """Whether somebody counts events into the definition now."""
        return bool(self._heard(now_ns))

    @property
    def ended_ns(self) -> int:
        """When its users counted no more, at the latest, where nobody goes on; since the epoch, 0 for never."""
        return self.until_ns + SILENT_NS if self.users else self.until_ns

    def noted(self, user: str, now_ns: int) -> Use:
        """Return it with a user that counts events in."""
        users = sorted({**self._heard(now_ns), user: now_ns}.items(), key=lambda each: each[1])
        return Use(max(self.until_ns, now_ns), dict(users[-USERS_MAX:]))

    def ended(self, user: str, now_ns: int) -> Use:
        """Return it without a user, which has counted events in until now."""
        if user not in self.users:
            return self
        users = {name: noted_ns for name, noted_ns in self._heard(now_ns).items() if name != user}
        return Use(max(self.until_ns, now_ns), users)

    def _heard(self, now_ns: int) -> dict[str, int]:
        """Return the users that are not silent: of one that was killed, the end tells nothing once another goes on."""
        return {name: noted_ns for name, noted_ns in self.users.items() if noted_ns > now_ns - SILENT_NS}


def user_name() -> str:
    """Return a new name for a process that counts events in."""
    return secrets.token_hex(8)


def read_use(get: Callable[[bytes], bytes | None], view: str, schema: str) -> Use:
    """Return what is noted of the use of a definition; what cannot be read is as if it was never used."""
    try:
        return msgspec.json.decode(get(use_key(view, schema)) or b"{}", type=Use)
    except msgspec.DecodeError:
        return Use()


def note_use(spec: StreamViewSpec, writer: StoreWriter, user: str, now_ns: int) -> None:
    """Note that a user counts events into a view as it is declared. now_ns: since the epoch. Raises StoreError."""
    writer.update(_UseChange(spec, lambda use: use.noted(user, now_ns)))


def end_use(spec: StreamViewSpec, writer: StoreWriter, user: str, now_ns: int) -> None:
    """Note that a user counts no more; where its use is not noted, nothing is written. Raises StoreError."""
    writer.update(_UseChange(spec, lambda use: use.ended(user, now_ns)))


class _UseChange:
    """A change of what is noted of a definition's use; see `Changes`. Several processes note at the same time."""

    def __init__(self, spec: StreamViewSpec, change: Callable[[Use], Use]) -> None:
        self._view = spec.name
        self._schema = schema_name(spec.schema_id)
        self._change = change
        self.keys = [use_key(self._view, self._schema)]
        self.tombstones = [self.keys[0] + TOMBSTONE.encode()]  # never there

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Return the new note; nothing for one that stays."""
        return [self._changed(stored) for stored in before]

    def _changed(self, stored: bytes | None) -> bytes | None:
        use = read_use(lambda _: stored, self._view, self._schema)
        changed = self._change(use)
        return None if changed == use else msgspec.json.encode(changed)


class Lapse(NamedTuple):
    """A time in which events were counted into another definition of a view alone, in ns since the epoch."""

    view: str
    since_ns: int
    until_ns: int

    @property
    def span(self) -> str:
        """From when to when, as ISO 8601 in UTC."""
        since, until = (datetime.fromtimestamp(each // NS_PER_S, UTC) for each in (self.since_ns, self.until_ns))
        return f"{since.isoformat()} to {until.isoformat()}"


def lapse(spec: StreamViewSpec, writer: StoreWriter, now_ns: int) -> Lapse | None:
    """Return the time whose events a registered view lacks, as far as the store tells; None where it tells of none.

    Of one that was not used since its cut: from there, where its history ends, to the newest event that has come. Of
    one that nobody uses now: since it was last used, where another was used later. That ends with the other's last
    use, or now, where the other goes on or did not note its end. To be asked before a use that begins now_ns is noted.
    """
    record, name = read_record(writer.get, spec.name), schema_name(spec.schema_id)
    own = None if record is None else record.schemas.get(name)
    if record is None or own is None or not own.is_whole:
        return None
    use = read_use(writer.get, spec.name, name)
    if use.is_going_on(now_ns):
        return None
    if not use.until_ns or use.until_ns <= own.begins_ns:
        newest_ns = read_watermark(writer.get(watermark_key(spec.stream.name))).newest_ns
        is_short = bool(newest_ns) and newest_ns[0] >= own.begins_ns > NEVER_NS
        return Lapse(spec.name, own.begins_ns, newest_ns[0]) if is_short else None
    others = [read_use(writer.get, spec.name, each) for each in record.schemas if each != name]
    ends_ns = [
        now_ns if other.users else other.until_ns
        for other in others
        if other.until_ns > use.until_ns or other.is_going_on(now_ns)
    ]
    return Lapse(spec.name, use.until_ns, max(ends_ns)) if ends_ns else None


def tell_lapses(lapses: Iterable[Lapse], warn: Callable[..., object]) -> None:
    """Tell of times whose events views lack. warn: takes what is told, and `view`, `span` and `next` by name."""
    for each in lapses:
        warn(LAPSED, view=each.view, span=each.span, next="it is right again once its windows reach back no further")
