"""Requests, events and responses as JSON Schema: what msgspec says of a type, and what only its decoder knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect as shape

from tailrace.pipeline import Pipeline
from tailrace.request.schema import bounded_type, field_specs

PREFIX: Final = "#/components/schemas/"
DECIMAL: Final = r"^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?$"
"""Texts that are decimals; others are too."""


class Schemas:
    """The schemas of a document. components: by name, each type's with that of what it serves before it."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of_request(self, owner: str, request_type: type[Any], lengths: dict[str, int] | None = None) -> dict[str, Any]:
        """Return the schema of a request or an event, as the decoder holds it. lengths: of lists, at most, by field."""
        schema = self._add(owner, bounded_type(request_type), request_type.__doc__)
        fields = self.components[schema["$ref"].removeprefix(PREFIX)]["properties"]
        for name, most in (lengths or {}).items():
            fields[name]["maxItems"] = min(most, fields[name].get("maxItems", most))
        return schema

    def of(self, owner: str, kind: type[Any]) -> dict[str, Any]:
        """Return the schema of what is answered."""
        return self._add(owner, kind, kind.__doc__)

    def _add(self, owner: str, kind: type[Any], text: str | None) -> dict[str, Any]:
        """Take in a type and those in it, and return a reference to it. owner: the prefix of their names."""
        prefix = f"{PREFIX}{owner}." if owner else PREFIX
        (schema,), found = msgspec.json.schema_components([kind], ref_template=prefix + "{name}", schema_hook=_any)
        named = {f"{prefix}{name}".removeprefix(PREFIX): each for name, each in found.items()}
        self.components |= named
        if text:
            named[schema["$ref"].removeprefix(PREFIX)]["description"] = " ".join(text.split())
        self._complete(shape.type_info(kind), schema, set())
        return dict(schema)

    def _complete(self, info: shape.Type, schema: Any, seen: set[str]) -> None:
        """Say in a schema what msgspec leaves out: the form of times without a rule for zones, and of decimals."""
        if not isinstance(schema, dict):
            return
        if (name := schema.get("$ref")) is not None:
            if name in seen:
                return
            seen.add(name)
            schema = self.components[name.removeprefix(PREFIX)]
        for part, its_schema in _parts(info, schema):
            self._complete(part, its_schema, seen)
        if schema.get("type") == "string":
            for key, value in _said_of(info).items():
                schema.setdefault(key, value)


def _parts(info: shape.Type, schema: dict[str, Any]) -> Iterator[tuple[shape.Type, Any]]:
    """Give the types in a type, each with its schema in the type's own."""
    match info:
        case shape.StructType():
            found = schema.get("properties", {})
            yield from ((field.type, found.get(field.encode_name)) for field in info.fields)
        case shape.UnionType():
            yield from ((option, each) for option in info.types for each in schema.get("anyOf", [schema]))
        case shape.CollectionType():
            yield info.item_type, schema.get("items")
        case shape.DictType():
            yield info.value_type, schema.get("additionalProperties")
        case shape.Metadata():
            yield info.type, schema


def _said_of(info: shape.Type) -> dict[str, str]:
    """Return what is to be said of a text that stands for a value of this type."""
    match info:
        case shape.DateTimeType():
            return {"format": "date-time"}
        case shape.TimeType():
            return {"format": "time"}
        case shape.DecimalType():
            return {"pattern": DECIMAL}
    return {}


def expanded_lengths(pipeline: Pipeline) -> dict[str, int]:
    """Return how long the list may be that makes a request's rows, by its name in JSON; empty where there is none."""
    fields = field_specs(pipeline.request)
    keys = {part for view in pipeline.views for part in view.spec.entity.parts if isinstance(part, str)}
    return {fields[key].name: pipeline.rows_max for key in keys if key in fields and fields[key].many}


def one_or_many(schema: dict[str, Any], array_max: int | None = None) -> dict[str, Any]:
    """Return the schema of one value or an array of them. array_max: of them, None for as many as were asked."""
    many = {"type": "array", "items": schema}
    return {"anyOf": [schema, many if array_max is None else many | {"maxItems": array_max}]}


def _any(kind: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec knows no schema of: anything."""
    return {}
