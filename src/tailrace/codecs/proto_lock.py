"""The numbers of messages' fields, kept in a file beside the pipeline's: what was once sent keeps its meaning.

A field that is removed keeps its number reserved; one that is renamed, or of another type, gets a new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tailrace.codecs.proto_form import FieldForm, MessageForm
from tailrace.errors import SetupError

ARRAY_NUMBER: Final = 2047
"""Of the field of an array: no request has it, so that the first bytes of a body tell an array from a request."""
NUMBER_MAX: Final = ARRAY_NUMBER - 1
FORMAT: Final = 1


class LockedField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A field's number and type. values: the numbers of an enum's texts. retired: those of texts that are gone."""

    number: int
    type: str
    values: dict[str, int] = {}
    retired: list[int] = []


class LockedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a message by name, and the numbers of those that are gone."""

    fields: dict[str, LockedField]
    reserved: list[int] = []


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds."""

    messages: dict[str, LockedMessage]
    format: int = FORMAT


def lock_path(folder: Path, pipeline: str) -> Path:
    """Return where the numbers of a pipeline are kept."""
    return folder / f"{pipeline}.proto.lock"


def read_lock(path: Path) -> Lock | None:
    """Return what a file holds, None where there is none. Raises SetupError for one that contradicts itself."""
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(str(error), path) from error
    if lock.format != FORMAT:
        raise _unreadable(f"its format is {lock.format}, and {FORMAT} is read", path)
    for name, message in lock.messages.items():
        numbers = [*(field.number for field in message.fields.values()), *message.reserved]
        if not _all_apart(numbers, NUMBER_MAX):
            raise _unreadable(f"{name} has a number twice, or one beyond 1 to {NUMBER_MAX}", path)
        for field in message.fields.values():
            if not _all_apart([*field.values.values(), *field.retired], 2**31 - 1):
                raise _unreadable(f"a field of {name} has the number of a value twice, or one below 1", path)
    return lock


def write_lock(lock: Lock, path: Path) -> None:
    """Write the file anew: another reader finds the former one or this one, whole."""
    from tempfile import NamedTemporaryFile  # which serving does not need

    text = msgspec.json.format(msgspec.json.encode(lock, order="deterministic"), indent=2) + b"\n"
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def locked(forms: Mapping[str, MessageForm], former: Lock | None) -> Lock:
    """Return the numbers of messages: those that they had, and new ones. Raises SetupError where there are no more."""
    messages = dict(former.messages) if former is not None else {}
    for name, form in forms.items():
        messages[name] = _locked_message(form, messages.get(name, LockedMessage({})))
    return Lock(messages)


def fitting(forms: Mapping[str, MessageForm], path: Path) -> Lock | None:
    """Return the numbers of a file, None where there is none. Raises SetupError where messages have others by now."""
    lock = read_lock(path)
    if lock is not None and locked(forms, lock) != lock:
        raise SetupError("the types have changed since", where=path.name, next="run `tailrace export proto` again")
    return lock


def _locked_message(form: MessageForm, former: LockedMessage) -> LockedMessage:
    fields: dict[str, LockedField] = {}
    kept = {
        each.name: old for each in form.fields
        if (old := former.fields.get(each.name)) is not None and old.type == each.type
    }  # fmt: skip
    gone = (old.number for name, old in former.fields.items() if name not in kept)
    reserved = sorted({*former.reserved, *gone})
    taken = max((*reserved, *(old.number for old in former.fields.values())), default=0)
    for each in form.fields:
        old = kept.get(each.name)
        if old is None:
            taken += 1
        fields[each.name] = _locked_field(each, LockedField(taken, each.type) if old is None else old)
    if taken > NUMBER_MAX:
        raise SetupError(f"a message has at most {NUMBER_MAX} fields, with those that are gone", where=form.name)
    return LockedMessage(fields, reserved)


def _locked_field(form: FieldForm, former: LockedField) -> LockedField:
    values = {text: former.values[text] for text in form.values if text in former.values}
    retired = sorted({*former.retired, *(number for text, number in former.values.items() if text not in values)})
    taken = max((*retired, *former.values.values()), default=0)
    for text in form.values:
        if text not in values:
            taken += 1
            values[text] = taken
    return LockedField(former.number, form.type, values, retired)


def _all_apart(numbers: Iterable[int], most: int) -> bool:
    listed = list(numbers)
    return len(set(listed)) == len(listed) and all(1 <= number <= most for number in listed)


def _unreadable(what: str, path: Path) -> SetupError:
    return SetupError(
        f"the numbers cannot be read: {what}", where=str(path), next="take the file from your version control"
    )
