"""What reads each message of a pipeline's types: a reader of each field, by its number (see `proto_reader`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tailrace.codecs.proto_form import MANY, MAP, ONE, FieldForm, MessageForm
from tailrace.codecs.proto_lock import Lock, LockedField
from tailrace.codecs.proto_reader import (
    EIGHT,
    EPOCH,
    LENGTH,
    WIRE_TYPES,
    Entry,
    Many,
    MessageReader,
    One,
    OneInt,
    OneText,
    Run,
    Take,
    TakeTime,
)
from tailrace.codecs.proto_values import Spent, TakeEnum, take_bool, take_bytes, take_double, take_int, take_text

EMPTY: Final[Mapping[str, Callable[[], Any]]] = {
    "double": float, "int64": int, "bool": bool, "string": str, "bytes": bytes, "enum": int, "message": dict,
    "timestamp": lambda: EPOCH,
}  # fmt: skip
"""What a map's entry has whose value is not there, by kind."""
RUN_LENGTHS: Final = (4, 32)
"""Of doubles that are read at once, the fewest first; beyond, a wide type would take memory for nothing."""


def message_readers(forms: Mapping[str, MessageForm], lock: Lock, spent: Spent) -> dict[str, MessageReader]:
    """Return what reads each message, by its name. spent: counts the fields of a body."""
    readers = {name: MessageReader(spent, is_open=form.is_open) for name, form in forms.items()}
    for name, form in forms.items():
        kept = lock.messages[name].fields
        run: list[tuple[str, int]] = []
        ones: list[One] = []
        for field in sorted(form.fields, key=lambda each: kept[each.name].number):
            one = _add_field(readers[name], field, kept[field.name], readers, spent)
            if field.kind == "double" and one is not None:
                run.append((field.name, kept[field.name].number))
                ones.append(one)
            else:
                _add_runs(readers[name], run, ones)
                run, ones = [], []
        _add_runs(readers[name], run, ones)
    return readers


def _add_runs(reader: MessageReader, fields: list[tuple[str, int]], ones: list[One]) -> None:
    """Add what reads from each field on as many as there are; where one is left out, it goes on behind that one."""
    for place, one in enumerate(ones):
        reads: One | Run = one
        for length in RUN_LENGTHS:
            if len(run := fields[place : place + length]) > 1:
                reads = Run(run, reads)
        reader.add(fields[place][1] << 3 | EIGHT, reads.read)


def _add_field(
    reader: MessageReader, field: FieldForm, kept: LockedField, readers: Mapping[str, MessageReader], spent: Spent
) -> One | None:
    """Add what reads a field; return it where it comes once."""
    take = _take_of(field, kept, readers, spent)
    wire = WIRE_TYPES.get(field.kind, LENGTH)
    tag, packed_tag = kept.number << 3 | wire, kept.number << 3 | LENGTH
    if field.count == ONE:
        one = {"string": OneText, "int64": OneInt}.get(field.kind, One)(field.name, take)
        reader.add(tag, one.read)
        if field.required and field.nullable:
            reader.add_empty(field.name, _none)
        return one
    if field.required:
        reader.add_empty(field.name, list if field.count == MANY else dict)
    if field.count == MAP:
        reader.add(packed_tag, Entry(field.name, 2 << 3 | wire, take, EMPTY[field.kind], spent).read)
        return None
    many = Many(field.name, take, spent)
    reader.add(tag, many.read)
    if wire != LENGTH:
        reader.add(packed_tag, many.read_packed)
    return None


def _none() -> None:
    return None


def _take_of(field: FieldForm, kept: LockedField, readers: Mapping[str, MessageReader], spent: Spent) -> Take:
    match field.kind:
        case "message":
            return readers[field.message].take
        case "enum":
            return TakeEnum(kept.values).take
        case "timestamp":
            return TakeTime(spent, naive=field.naive).take
    plain = {"double": take_double, "int64": take_int, "bool": take_bool, "string": take_text, "bytes": take_bytes}
    return plain[field.kind]
