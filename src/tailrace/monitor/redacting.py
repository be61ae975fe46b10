"""Requests and answers without the fields that their types call redacted, as `tailrace record` keeps them."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.request.masking import Masking
from tailrace.request.schema import Request


def schema_that_redacts(kind: type) -> dict[str, Any] | None:
    """Return the JSON schema of a type of requests, or of answers; None for one with nothing to redact, as most."""
    schema = msgspec.json.schema(kind)
    return schema if Masking(schema).is_secret(schema) else None


def redacted_fields(request_type: type[Request]) -> frozenset[str]:
    """Return the fields of a request type that are redacted, or have a part that is."""
    schema = schema_that_redacts(request_type)
    if schema is None:
        return frozenset()
    masking = Masking(schema)
    properties = masking.resolved(schema).get("properties", {})
    fields = msgspec.structs.fields(request_type)
    return frozenset(each.name for each in fields if masking.is_secret(properties.get(each.encode_name)))


class Redacting:
    """Masks requests, or answers. schema: of `schema_that_redacts`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._masking = Masking(schema)

    def mask(self, told: bytes) -> bytes:
        """Return the JSON of a request, or of an answer, as it may be kept."""
        return msgspec.json.encode(self._masking.mask(msgspec.json.decode(told), self._schema, "$", []))
