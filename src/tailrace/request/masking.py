"""Values without what is redacted: the fields that a type marks (`tr.REDACTED`), which its JSON schema tells.

A value is replaced by one of its kind: a text by as many x, a number by 0. What a type does not name (a misspelt field)
is replaced too, where the type has anything to redact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MARK: Final = "x-redact"


class Masking:
    """Replaces what the schemas of a document mark. document: what their references are resolved in."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return a schema itself, where it is a reference to it; empty where there is none."""
        found: Any = schema
        while isinstance(found, dict) and "$ref" in found:
            place: Any = self._document
            for name in str(found["$ref"]).removeprefix("#/").split("/"):
                place = place.get(name, {}) if isinstance(place, dict) else {}
            found = place
        return found if isinstance(found, dict) else {}

    def is_secret(self, schema: Any, within: frozenset[int] = frozenset()) -> bool:
        """Return whether a schema has anything to redact."""
        found = self.resolved(schema)
        if not found or id(found) in within:
            return False
        inner = within | {id(found)}
        parts = [*found.get("anyOf", ()), *found.get("properties", {}).values(), found.get("items"),
                 found.get("additionalProperties")]  # fmt: skip
        return MARK in found or any(isinstance(part, dict) and self.is_secret(part, inner) for part in parts)

    def mask(self, value: Any, schema: Any, path: str, paths: list[str]) -> Any:
        """Return a value with its redacted parts replaced; add their paths."""
        found = self.resolved(schema)
        if MARK in found:
            paths.append(path)
            return masked_value(value)
        for option in found.get("anyOf", ()):
            value = self.mask(value, option, path, paths)
        if isinstance(value, dict) and ("properties" in found or "additionalProperties" in found):
            return self._mask_members(value, found, path, paths)
        if isinstance(value, list) and isinstance(found.get("items"), dict):
            return [self.mask(each, found["items"], f"{path}[{place}]", paths) for place, each in enumerate(value)]
        return value

    def _mask_members(self, value: dict[Any, Any], found: Mapping[str, Any], path: str, paths: list[str]) -> Any:
        known, others = found.get("properties", {}), found.get("additionalProperties", False)
        masked = {}
        for name, each in value.items():
            where = f"{path}.{name}"
            if name in known:
                masked[name] = self.mask(each, known[name], where, paths)
            elif isinstance(others, dict) and others:
                masked[name] = self.mask(each, others, where, paths)
            else:
                paths.append(where)
                masked[name] = masked_value(each)
        return masked


def masked_value(value: Any) -> Any:  # noqa: PLR0911 - one case a type
    """Return a value of the same kind that says nothing of it but a text's length."""
    match value:
        case bool():
            return False
        case int() | float():
            return 0
        case str():
            return "x" * len(value)
        case bytes():
            return b"x" * len(value)
        case list():
            return [masked_value(each) for each in value]
        case dict():
            return {name: masked_value(each) for name, each in value.items()}
    return None
