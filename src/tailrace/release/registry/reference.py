"""How a version is called: `fraud@3` by its number, `fraud@production` by an alias."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tailrace.errors import RegistryError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBER_MAX: Final = 10**9
NAME_RULE: Final = "a name has 1 to 100 letters, digits, '.', '_' and '-', and begins with a letter or a digit"


class Reference(NamedTuple):
    """A version, by the name of its model, and a number or an alias."""

    name: str
    number: int | None
    alias: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.number if self.alias is None else self.alias}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return what a text such as `fraud@3` names. Raises RegistryError where it is none."""
        name, separator, which = text.partition("@")
        if not separator or not which:
            raise RegistryError(
                "it names no version", where=text, next="write NAME@NUMBER or NAME@ALIAS, such as fraud@production"
            )
        check_name(name)
        if which.isascii() and which.isdigit():
            return cls(name, number_of(which, text), None)
        return cls(name, None, check_alias(which))


def number_of(text: str, where: str) -> int:
    """Return a version's number. Raises RegistryError for one that no version has."""
    number = int(text) if len(text) <= len(str(_NUMBER_MAX)) and text.isascii() and text.isdigit() else 0
    if not 0 < number <= _NUMBER_MAX:
        raise RegistryError("versions are numbered from 1", where=where, next="list them: tailrace models list")
    return number


def check_name(name: str, what: str = "model") -> str:
    """Return a name that is safe as a part of a path. Raises RegistryError for any other."""
    if not is_name(name):
        raise RegistryError(f"{name!r} is no name of a {what}", next=NAME_RULE)
    return name


def is_name(name: str) -> bool:
    """Say whether a name is one that a registry gives."""
    return _NAME.fullmatch(name) is not None


def check_alias(alias: str) -> str:
    """Return a name that can be an alias: one that is no number. Raises RegistryError."""
    if check_name(alias, "alias").isdigit():
        raise RegistryError(f"{alias!r} is no name of an alias: it is a version's number", next=NAME_RULE)
    return alias
