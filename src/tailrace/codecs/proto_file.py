"""The file of a pipeline's messages and its service as a descriptor, without protoc: what gRPC's reflection tells.

It says what `proto_text` writes. Of https://protobuf.dev/reference/protobuf/google.protobuf/#file-descriptor-proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from tailrace.codecs.proto_form import MANY, MAP, ONE, FieldForm, MessageForm, camel_of
from tailrace.codecs.proto_lock import ARRAY_NUMBER, Lock, LockedField, LockedMessage
from tailrace.codecs.proto_text import SERVICE, check_service, enum_values, package_of

_KINDS: Final = {
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "enum": FieldDescriptorProto.TYPE_ENUM,
    "message": FieldDescriptorProto.TYPE_MESSAGE,
    "timestamp": FieldDescriptorProto.TYPE_MESSAGE,
}
_OPTIONAL: Final = FieldDescriptorProto.LABEL_OPTIONAL
_REPEATED: Final = FieldDescriptorProto.LABEL_REPEATED
_TIMESTAMP: Final = ".google.protobuf.Timestamp"


def proto_files(
    pipeline: str, forms: Mapping[str, MessageForm], lock: Lock, request: str, response: str
) -> list[bytes]:
    """Return the file of a pipeline, serialised, behind those that it needs. Raises SetupError; see `check_service`."""
    check_service(forms)
    package = package_of(pipeline)
    file = FileDescriptorProto(name=f"{pipeline}.proto", package=package, syntax="proto3")
    needed = []
    if any(field.kind == "timestamp" for form in forms.values() for field in form.fields):
        file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
        needed.append(timestamp_pb2.DESCRIPTOR.serialized_pb)
    for form in forms.values():
        _fill(file.message_type.add(name=form.name), form, lock.messages[form.name], f".{package}")
    for name in dict.fromkeys((request, response)):
        file.message_type.add(name=f"{name}Array").field.add(
            name="items", number=ARRAY_NUMBER, label=_REPEATED,
            type=FieldDescriptorProto.TYPE_MESSAGE, type_name=f".{package}.{name}", json_name="items",
        )  # fmt: skip
    service = file.service.add(name=SERVICE)
    for method, many in (("Predict", ""), ("PredictMany", "Array")):
        service.method.add(
            name=method, input_type=f".{package}.{request}{many}", output_type=f".{package}.{response}{many}"
        )
    return [*needed, file.SerializeToString()]


def _fill(message: DescriptorProto, form: MessageForm, kept: LockedMessage, package: str) -> None:
    """Write down one message. package: with a dot before it."""
    names: set[str] = set()
    for field in form.fields:
        if field.kind == "enum":
            _add_enum(message, field, kept.fields[field.name], names)
    for number in kept.reserved:
        message.reserved_range.add(start=number, end=number + 1)
    for field in sorted(form.fields, key=lambda each: kept.fields[each.name].number):
        added = message.field.add(
            name=field.name, number=kept.fields[field.name].number, json_name=_json_name(field.name)
        )
        if field.count == MAP:
            entry = _add_entry(message, field, package)
            added.label, added.type = _REPEATED, FieldDescriptorProto.TYPE_MESSAGE
            added.type_name = f"{package}.{form.name}.{entry}"
            continue
        _set_kind(added, field, f"{package}.{form.name}", package)
        added.label = _REPEATED if field.count == MANY else _OPTIONAL
        if field.count == ONE:
            added.proto3_optional, added.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")


def _set_kind(added: FieldDescriptorProto, field: FieldForm, message: str, package: str) -> None:
    """Write down of which type a value is. message: within which an enum of it stands."""
    added.type = _KINDS[field.kind]
    if field.kind == "message":
        added.type_name = f"{package}.{field.message}"
    elif field.kind == "timestamp":
        added.type_name = _TIMESTAMP
    elif field.kind == "enum":
        added.type_name = f"{message}.{camel_of(field.name)}Value"


def _add_entry(message: DescriptorProto, field: FieldForm, package: str) -> str:
    """Write down the message of a map's entries; return its name."""
    name = f"{camel_of(field.name)}Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_OPTIONAL, type=FieldDescriptorProto.TYPE_STRING, json_name="key")
    value = entry.field.add(name="value", number=2, label=_OPTIONAL, json_name="value")
    _set_kind(value, field, f"{package}.{message.name}", package)
    return name


def _add_enum(message: DescriptorProto, field: FieldForm, kept: LockedField, names: set[str]) -> None:
    """Write down a field's enum. names: see `enum_values`."""
    enum = message.enum_type.add(name=f"{camel_of(field.name)}Value")
    for name, number, _ in enum_values(field, kept, names):
        enum.value.add(name=name, number=number)
    for number in kept.retired:
        enum.reserved_range.add(start=number, end=number)


def _json_name(name: str) -> str:
    """Return the name of a field in JSON, as protoc makes it: the letter behind an underscore is a capital."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)
