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
        parts = [*found.get("anyOf", ()), *found.get("properties", {}).values(), *found.get("prefixItems", ()),
                 found.get("items"), found.get("additionalProperties"), found.get("propertyNames")]  # fmt: skip
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
        if isinstance(value, list) and ("prefixItems" in found or isinstance(found.get("items"), dict)):
            return self._mask_items(value, found, path, paths)
        return value

    def _mask_items(self, value: list[Any], found: Mapping[str, Any], path: str, paths: list[str]) -> list[Any]:
        """Mask a list by its type's items: of a tuple, and of a type that is written as an array, each has its own."""
        own, others = found.get("prefixItems", ()), found.get("items")
        masked = []
        for place, each in enumerate(value):
            where, schema = f"{path}[{place}]", own[place] if place < len(own) else others
            if isinstance(schema, dict):
                masked.append(self.mask(each, schema, where, paths))
            else:
                paths.append(where)
                masked.append(masked_value(each))
        return masked

    def _mask_members(self, value: dict[Any, Any], found: Mapping[str, Any], path: str, paths: list[str]) -> Any:
        known, others = found.get("properties", {}), found.get("additionalProperties", False)
        hides_names = self.is_secret(found.get("propertyNames"))
        masked: dict[Any, Any] = {}
        for told, each in value.items():
            name = _other_name(told, masked) if hides_names and told not in known else told
            where = f"{path}.{name}"
            if name in known:
                masked[name] = self.mask(each, known[name], where, paths)
            elif isinstance(others, dict) and others:
                if hides_names:
                    paths.append(where)
                masked[name] = self.mask(each, others, where, paths)
            else:
                paths.append(where)
                masked[name] = masked_value(each)
        return masked


def _other_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return a name that says nothing of one but its length, unless there is one of that length."""
    hidden = "x" * len(name)
    while hidden in taken:
        hidden += "x"
    return hidden


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
