"""The .proto file of a pipeline's messages and its gRPC service, in proto3."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tailrace.codecs.proto_form import MANY, MAP, ONE, FieldForm, MessageForm, camel_of
from tailrace.codecs.proto_lock import ARRAY_NUMBER, Lock, LockedField
from tailrace.errors import SetupError

SERVICE: Final = "Predictor"
_TYPES: Final = {"timestamp": "google.protobuf.Timestamp"}


def proto_text(pipeline: str, forms: Mapping[str, MessageForm], lock: Lock, arrays: Sequence[str]) -> str:
    """Return the text of the file, the same for the same messages.

    arrays: those that may come many at once. Of two, the service takes the first and answers with the second.
    Raises SetupError for a message of the service's name.
    """
    check_service(forms)
    lines = [
        f"// Written by `tailrace export proto`; the numbers are kept in {pipeline}.proto.lock.",
        'syntax = "proto3";',
        "",
        f"package {package_of(pipeline)};",
    ]
    if any(field.kind == "timestamp" for form in forms.values() for field in form.fields):
        lines += ["", 'import "google/protobuf/timestamp.proto";']
    for form in forms.values():
        lines += ["", *_message(form, lock)]
    for name in dict.fromkeys(arrays):
        lines += ["", f"message {name}Array {{", f"  repeated {name} items = {ARRAY_NUMBER};", "}"]
    if len(arrays) == 2:
        lines += ["", *_service(*arrays)]
    return "\n".join(lines) + "\n"


def package_of(pipeline: str) -> str:
    """Return the package of a pipeline's messages."""
    name = re.sub(r"\W", "_", pipeline, flags=re.ASCII).lower()
    return f"tailrace.{name if name[:1].isalpha() else f'p_{name}'}"


def check_service(forms: Mapping[str, MessageForm]) -> None:
    """Raise SetupError where a message has the name of the service."""
    if SERVICE in forms:
        raise SetupError(f"{SERVICE} is the name of the service", where=SERVICE, next="rename the type")


def enum_values(field: FieldForm, kept: LockedField, names: set[str]) -> Iterator[tuple[str, int, str]]:
    """Give the name, the number and the text of each value of a field's enum; the first stands for none.

    names: of the message's values so far, which share one scope.
    """
    prefix = field.name.upper()
    names.add(f"{prefix}_UNSPECIFIED")
    yield f"{prefix}_UNSPECIFIED", 0, ""
    for text, number in sorted(kept.values.items(), key=lambda each: each[1]):
        name = f"{prefix}_{re.sub(r'[^A-Z0-9]+', '_', text.upper()).strip('_')}"
        while name in names or name.endswith("_"):
            name = f"{name.rstrip('_')}_{number}"
        names.add(name)
        yield name, number, text


def _service(request: str, response: str) -> Iterator[str]:
    yield f"service {SERVICE} {{"
    yield f"  rpc Predict({request}) returns ({response});"
    yield f"  rpc PredictMany({request}Array) returns ({response}Array);"
    yield "}"


def _message(form: MessageForm, lock: Lock) -> Iterator[str]:
    message = lock.messages[form.name]
    yield f"message {form.name} {{"
    names: set[str] = set()
    for field in form.fields:
        if field.kind == "enum":
            yield from _enum(field, message.fields[field.name], names)
    if message.reserved:
        yield f"  reserved {', '.join(map(str, message.reserved))};"
    for field in sorted(form.fields, key=lambda each: message.fields[each.name].number):
        yield f"  {_declared(field)} {field.name} = {message.fields[field.name].number};"
    yield "}"


def _declared(field: FieldForm) -> str:
    one = _TYPES.get(field.kind, field.kind)
    if field.kind == "message":
        one = field.message
    elif field.kind == "enum":
        one = f"{camel_of(field.name)}Value"
    return {ONE: f"optional {one}", MANY: f"repeated {one}", MAP: f"map<string, {one}>"}[field.count]


def _enum(field: FieldForm, kept: LockedField, names: set[str]) -> Iterator[str]:
    """Give the lines of a field's enum. names: see `enum_values`."""
    yield f"  enum {camel_of(field.name)}Value {{"
    for name, number, text in enum_values(field, kept, names):
        told = "" if not number or text.isidentifier() else f"  // {text!r}".replace("\n", " ")
        yield f"    {name} = {number};{told}"
        if not number and kept.retired:
            yield f"    reserved {', '.join(map(str, kept.retired))};"
    yield "  }"
