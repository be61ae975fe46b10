"""Requests without the fields that their type calls redacted, for whatever keeps them: as `tailrace record` does it."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.request.masking import Masking
from tailrace.request.schema import Request


def schema_that_redacts(request_type: type[Request]) -> dict[str, Any] | None:
    """Return the JSON schema of a request type; None for one that has nothing to redact, as most have."""
    schema = msgspec.json.schema(request_type)
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
    """Masks requests. schema: of `schema_that_redacts`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._masking = Masking(schema)

    def mask(self, request: bytes) -> bytes:
        """Return the JSON of a request as it may be kept."""
        return msgspec.json.encode(self._masking.mask(msgspec.json.decode(request), self._schema, "$", []))
