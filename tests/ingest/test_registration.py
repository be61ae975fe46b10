"""What a store notes of a stream view's definitions when somebody begins to count into one."""

from __future__ import annotations

import msgspec
import pytest

import tailrace as tr
from tailrace.deadline import NS_PER_S
from tailrace.errors import StoreError
from tailrace.features.catalogue import catalogue_key, read_record, schema_name, use_key
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.registration import SCHEMAS_MAX, begin_use, register
from tailrace.ingest.use import read_use


class Payment(tr.Request):
    """An event of the definitions below."""

    payment_id: int
    customer_id: int
    time: float


payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id")
customer = tr.Entity("customer", key="customer_id")


def definition(hours: int) -> StreamViewSpec:
    """Return the view with a window of so many hours."""
    body = {"entity": customer, "stream": payments, "n": tr.count(window=f"{hours}h"), "__annotations__": {"n": int}}
    spec: StreamViewSpec = type("Activity", (tr.StreamFeatureView,), body).spec  # type: ignore[attr-defined]
    return spec


SPEC = definition(1)
SCHEMA = schema_name(SPEC.schema_id)
NOW_NS = 5_000 * NS_PER_S


class Removing(MemoryWriter):
    """A store in which a run that did not see the user's note removes the definition, and with it the note."""

    is_removed = False

    def get(self, key: bytes) -> bytes | None:
        """Remove the definition right before the record is read for the first time."""
        if key == catalogue_key("Activity") and not self.is_removed and use_key("Activity", SCHEMA) in self._rows:
            self.is_removed = True
            record = read_record(super().get, "Activity")
            left = msgspec.json.encode(msgspec.structs.replace(record, schemas={}))  # type: ignore[type-var]
            self.exchange([(key, left)], [use_key("Activity", SCHEMA)])
        return super().get(key)


def test_user_whose_note_went_with_a_removed_definition_notes_its_use_again() -> None:
    """The definition is registered anew, and kept by the note."""
    writer = Removing({})
    register(SPEC, ["pay"], writer, 0)
    own = begin_use(SPEC, ["pay"], writer, "server", lambda: NOW_NS, refuse=False)
    assert writer.is_removed
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert record.schemas == {SCHEMA: own}
    assert read_use(writer.get, "Activity", SCHEMA).users == {"server": NOW_NS}


def test_definitions_of_a_view_are_bounded() -> None:
    """One more is refused with what to do; those that are known go on."""
    writer = MemoryWriter({})
    for hours in range(1, SCHEMAS_MAX + 1):
        register(definition(hours), ["pay"], writer, 0)
    with pytest.raises(StoreError, match="8 definitions of the view already") as refused:
        register(definition(SCHEMAS_MAX + 1), ["pay"], writer, 0)
    assert "--keep-old 0s" in str(refused.value)
    assert register(SPEC, ["pay"], writer, 0).is_whole


def test_pipelines_that_share_a_view_are_noted_each_once() -> None:
    """With whoever registers it first and after."""
    writer = MemoryWriter({})
    for name in ("pay", "refund", "pay"):
        register(SPEC, [name], writer, 0)
    record = read_record(writer.get, "Activity")
    assert record is not None
    assert record.pipelines == ("pay", "refund")
