"""How many quotes a body must have, counted from the request that was decoded from it.

A key has two, a text two, a number none. What is counted from the request is each key once and never too much, so a
body that has just as many quotes has no key twice; one that has more has, or has an escaped quote, or has parts that
are not counted.

What a request does not say is which of its fields the body left out. So the type that is decoded into gets its
defaults from where that is counted: in C, some 10 ns for each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, repeat, starmap
from operator import attrgetter
from typing import Any, Final, cast

from msgspec import NODEFAULT
from msgspec import inspect as shape

from tailrace.request.schema import Request

PAIR: Final = 2
"""Quotes of a key, or of a text."""

_UNQUOTED = shape.NoneType | shape.BoolType | shape.IntType | shape.FloatType
_QUOTED = (
    shape.StrType | shape.BytesType | shape.ByteArrayType | shape.MemoryViewType | shape.UUIDType
    | shape.DateTimeType | shape.DateType | shape.TimeType | shape.TimeDeltaType
)  # fmt: skip


class QuoteCount:
    """Counts the quotes of the bodies of one request type.

    fixed: how many each body has, None where `of` says it. useful: False where every body has parts that are not
    counted. sparse: few of a body's characters are quotes. factories: by field, what the type that is decoded into
    must take its default from. left: falls by one for each key, and each text, that such a default replaces.
    """

    def __init__(self, request_type: type[Request]) -> None:
        fields = cast(shape.StructType, shape.type_info(request_type)).fields
        self._full = 0  # quotes of a body with every key, with no null and with nothing in what is sized
        self._nullable: list[str] = []
        self._sized: list[tuple[Callable[[Any], Any], int]] = []
        self._endless = repeat((), 2**62)
        self.left: Callable[[], int] = self._endless.__length_hint__
        self.factories: dict[str, Callable[[], Any]] = {}
        self.useful = True
        # Values are looked at only where no code of the user's may have put others into the request.
        looks = not hasattr(request_type, "__post_init__")
        for field in fields:
            quotes, of_default = self._add(field, looks)
            self._full += PAIR + quotes
            if not field.required:
                self.factories[field.name] = self._counted(field, (PAIR + of_default) // PAIR)
        config = request_type.__struct_config__
        if self.factories and (config.omit_defaults or config.repr_omit_defaults):
            self.useful = False  # for these look at where the defaults are declared
        if not self.useful:
            self.factories = {}
        self.sparse = any(is_sparse(field.type) for field in fields)
        varies = self.factories or self._nullable or self._sized or self.sparse or not self.useful
        self.fixed = None if varies else self._full
        # Of one field a tuple is read too: it has the field twice, so that each null in it is half of one.
        self._read_nullable = attrgetter(*self._nullable * (1 if self._nullable[1:] else 2)) if self._nullable else None
        self._null_quotes = PAIR if self._nullable[1:] else PAIR // 2

    def of(self, request: Any) -> int:
        """Return how many quotes the body of a request accounts for, and its defaults; see `left`."""
        quotes = self._full
        if self._read_nullable:
            quotes -= self._read_nullable(request).count(None) * self._null_quotes
        for read, each in self._sized:
            if value := read(request):
                quotes += len(value) * each
        return quotes

    def _add(self, field: shape.Field, looks: bool) -> tuple[int, int]:
        """Take a field in; return the quotes of its value that are in `_full`, and those that its default has there."""
        if (quotes := quotes_of(field.type)) is not None:
            return quotes, quotes
        info, nullable = _without_null(field.type)
        if looks and nullable and quotes_of(info) == PAIR and field.default_factory is NODEFAULT:
            self._nullable.append(field.name)
            return PAIR, 0 if field.default is None else PAIR
        each = _element_quotes(info)
        if looks and each and (field.required or field.default is None or field.default_factory in (list, dict)):
            self._sized.append((attrgetter(field.name), each))
        elif field.required:
            self.useful = False
        return 0, 0  # of a field that is not counted: right where it is left out, else too few

    def _counted(self, field: shape.Field, pairs: int) -> Callable[[], Any]:
        """Return what gives a field's default and moves the endless iterator on by the pairs that it replaces."""
        factory = field.default_factory if field.default is NODEFAULT else repeat(field.default).__next__
        return starmap(factory, islice(self._endless, pairs - 1, None, pairs)).__next__


def quotes_around_texts(body: bytes) -> int:
    """Return how many quotes begin or end a text or a key. An escaped quote does neither, nor an escaped backslash."""
    body = body.replace(b"\\\\", b"")
    return body.count(b'"') - body.count(b'\\"')


def quotes_of(info: shape.Type, within: tuple[Any, ...] = ()) -> int | None:  # noqa: PLR0911 - one case a type
    """Return how many quotes every value of a type has, None where that varies. within: the structs around it."""
    match info:
        case shape.Metadata():
            return quotes_of(info.type, within)
        case shape.LiteralType():
            return _the_only({PAIR if isinstance(value, str) else 0 for value in info.values})
        case shape.EnumType():
            return _the_only({PAIR if isinstance(member.value, str) else 0 for member in info.cls})
        case shape.UnionType():
            return _the_only({quotes_of(each, within) for each in info.types})
        case shape.CollectionType():
            return 0 if quotes_of(info.item_type, within) == 0 else None
        case shape.TupleType():
            return _sum_of([quotes_of(each, within) for each in info.item_types])
        case shape.StructType(tag_field=None, array_like=False) if info.cls not in within:
            inner = (*within, info.cls)
            return _sum_of([_member_quotes(field, inner) for field in info.fields])
    return 0 if isinstance(info, _UNQUOTED) else PAIR if isinstance(info, _QUOTED) else None


def _member_quotes(field: shape.Field, within: tuple[Any, ...]) -> int | None:
    quotes = quotes_of(field.type, within)
    return None if quotes is None or not field.required else PAIR + quotes


def is_sparse(info: shape.Type) -> bool:
    """Say whether a value may be long and has no quotes: a list of numbers."""
    info, _ = _without_null(info)
    return isinstance(info, shape.CollectionType) and quotes_of(info) == 0


def _element_quotes(info: shape.Type) -> int | None:
    """Return the quotes of each element of a list, or member of a dict; None if they vary, or it is neither."""
    match info:
        case shape.CollectionType():
            return quotes_of(info.item_type)
        case shape.DictType():
            return _sum_of([PAIR, quotes_of(info.value_type)])
    return None


def _without_null(info: shape.Type) -> tuple[shape.Type, bool]:
    """Return the type without null, and whether null was one of its values."""
    match info:
        case shape.Metadata():
            return _without_null(info.type)
        case shape.LiteralType() if None in info.values:
            return shape.LiteralType(tuple(value for value in info.values if value is not None)), True
        case shape.UnionType():
            others = tuple(each for each in info.types if not isinstance(each, shape.NoneType))
            return others[0] if len(others) == 1 else shape.UnionType(others), len(others) < len(info.types)
    return info, False


def _the_only(counts: set[int | None]) -> int | None:
    return counts.pop() if len(counts) == 1 else None


def _sum_of(counts: list[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)
