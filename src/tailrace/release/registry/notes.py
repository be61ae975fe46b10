"""What is noted of a version and may change: the aliases that name it, its tags, and who needs it until when."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tailrace.errors import RegistryError
from tailrace.release.registry.records import (
    MOVES_KEPT,
    AliasRecord,
    HoldRecord,
    Move,
    TagRecord,
    encode,
    to_text,
)
from tailrace.release.registry.reference import check_alias, check_name
from tailrace.release.registry.registry import ALIASES, HOLDS, MODELS, TAGS, Registry, deleted_key, user_here

_TAG_CHARACTERS_MAX: Final = 1_000
_WHY_CHARACTERS_MAX: Final = 200


def set_alias(registry: Registry, alias: str, name: str, number: int) -> int | None:
    """Have an alias name a version; return which it named before. What is served stays as it is.

    Raises RegistryError for a version that is not there, not trusted, or is being deleted.
    """
    check_alias(alias)
    registry.version(name, number)
    before = registry.aliases(name).get(alias)
    moves = () if before is None else before.moves
    move = Move(number, to_text(registry.now_s()), user_here())
    record = AliasRecord(number, (move, *moves)[:MOVES_KEPT])
    with registry.told("written"):
        registry.storage.write(_alias_key(name, alias), encode(record))
        if registry.storage.find(deleted_key(name, number)):  # whoever deletes looks for aliases after it said so
            if before is None:
                registry.storage.delete(_alias_key(name, alias))
            else:
                registry.storage.write(_alias_key(name, alias), encode(before))
            raise _is_deleted(name, number)
    return None if before is None else before.number


def remove_alias(registry: Registry, alias: str, name: str) -> int | None:
    """Remove an alias; return which version it named, None where nobody can read that. Raises RegistryError."""
    check_alias(alias)
    aliases = registry.aliases(name)
    found = aliases.get(alias)
    if found is None and alias not in aliases.faults:
        raise RegistryError(f"the model {name!r} has no alias {alias!r}", where=registry.url)
    with registry.told("written"):
        registry.storage.delete(_alias_key(name, alias))
    return None if found is None else found.number


def set_tag(registry: Registry, name: str, number: int, tag: str, value: str) -> None:
    """Note something of a version. Raises RegistryError for a version that is not there, or a text over 1,000."""
    check_name(tag, "tag")
    if len(value) > _TAG_CHARACTERS_MAX:
        raise RegistryError(f"a tag has at most {_TAG_CHARACTERS_MAX} characters", where=tag)
    registry.version(name, number)
    with registry.told("written"):
        registry.storage.write(
            _tag_key(name, number, tag), encode(TagRecord(value, to_text(registry.now_s()), user_here()))
        )


def remove_tag(registry: Registry, name: str, number: int, tag: str) -> None:
    """Remove a tag. Raises RegistryError where there is none."""
    check_name(tag, "tag")
    tags = registry.tags(name, number)
    if tag not in tags and tag not in tags.faults:
        raise RegistryError(f"{name}@{number} has no tag {tag!r}", where=registry.url)
    with registry.told("written"):
        registry.storage.delete(_tag_key(name, number, tag))


def hold(registry: Registry, name: str, number: int, *, hold_id: str, holder: str, why: str, until_s: float) -> None:
    """Note that a version is needed until a time, in seconds since 1970: till then it is neither deleted nor collected.

    hold_id: a name of the hold's own; the same again moves its time. The seam for whoever keeps what names a version:
    a release, or a log of predictions for as long as it is kept.
    Raises RegistryError for a version that is not there, not trusted, or is being deleted.
    """
    check_name(hold_id, "hold")
    registry.version(name, number)
    key = f"{MODELS}/{name}/{HOLDS}/{number}/{hold_id}.json"
    before = registry.holds(name, number).get(hold_id)
    with registry.told("written"):
        registry.storage.write(key, encode(HoldRecord(holder, why[:_WHY_CHARACTERS_MAX], to_text(until_s))))
        if registry.storage.find(deleted_key(name, number)):
            if before is None:
                registry.storage.delete(key)
            else:  # it was there before the deletion, which sees it and steps back
                registry.storage.write(key, encode(before))
            raise _is_deleted(name, number)


def let_go(registry: Registry, name: str, number: int, hold_id: str) -> None:
    """End a hold before its time, if it is there."""
    check_name(hold_id, "hold")
    with registry.told("written"), suppress(FileNotFoundError):
        registry.storage.delete(f"{MODELS}/{name}/{HOLDS}/{number}/{hold_id}.json")


def _is_deleted(name: str, number: int) -> RegistryError:
    return RegistryError("it is being deleted by another", where=f"{name}@{number}", next="take another version")


def _alias_key(name: str, alias: str) -> str:
    return f"{MODELS}/{name}/{ALIASES}/{alias}.json"


def _tag_key(name: str, number: int, tag: str) -> str:
    return f"{MODELS}/{name}/{TAGS}/{number}/{tag}.json"
