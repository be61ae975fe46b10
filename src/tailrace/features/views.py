"""Entities and batch feature views: the declaration of what is known beforehand. No I/O.

A view is declared by subclassing. Mistakes in it are collected in its `spec`, so that a pipeline's compile error can
report all of them at once.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin, get_type_hints

import numpy as np

from tailrace.deadline import parse_duration
from tailrace.errors import Problem
from tailrace.features.sources import Every, Parquet, Source

COLUMNS_MAX: Final = 1_000
STRING_BYTES_MAX: Final = 4_096
"""The longest text a view's column holds, in UTF-8 bytes."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = frozenset({"entity", "source", "refresh", "max_staleness", "spec"})
_NO_DEFAULT: Final = object()
_BUILTIN_DTYPES: Final = {float: np.dtype("<f8"), int: np.dtype("<i8"), bool: np.dtype("?"), str: np.dtype(object)}


@dataclass(frozen=True, slots=True)
class Entity:
    """What features are about: a customer, a terminal.

    name: an identifier; part of every key in the online store. key: the field of the request that carries the id: an
    int or a str, or a list of them where a request is about many.
    """

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a view.

    dtype: NumPy's, little-endian; object for text. default: answers where nothing is known.
    """

    name: str
    dtype: np.dtype[Any]
    default: Any
    view: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the column holds text."""
        return self.dtype.kind == "O"


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """A view as the rest of Tailrace sees it. Only of use where `problems` is empty."""

    name: str
    entity: Entity
    columns: tuple[Column, ...]
    source: Source
    refresh_ns: int
    max_staleness_ns: int | None
    problems: tuple[Problem, ...] = ()


class BatchFeatureView:
    """Base of views that are computed in batches and looked up while serving.

    A subclass sets `entity` and `source`, may set `refresh` and `max_staleness`, and annotates its columns, each with
    the default that answers for an unknown entity or a null. Types: float, int, bool, str, and NumPy's own number
    types. A value is stale once its source's time (or, without one, the time it was materialised) is older than
    `max_staleness`; it is served all the same, and counted as stale. On the class, a column's name is its `Column`.
    """

    entity: ClassVar[Entity]
    source: ClassVar[Source]
    refresh: ClassVar[Every] = Every("1d")
    max_staleness: ClassVar[str | None] = None
    spec: ClassVar[ViewSpec]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.spec = _Reading(cls).spec()
        for column in cls.spec.columns:
            setattr(cls, column.name, column)


class _Reading:
    """One view's declaration while it is read: what it says, and every mistake found on the way."""

    def __init__(self, view: type[BatchFeatureView]) -> None:
        self._view = view
        self._where = f"features.{view.__name__}"
        self._problems: list[Problem] = []

    def spec(self) -> ViewSpec:
        """Return the view's spec, with its problems."""
        entity, source = self._entity(), self._source()
        refresh_ns, max_staleness_ns = self._refresh_ns(), self._max_staleness_ns()
        columns = self._columns()
        return ViewSpec(
            name=self._view.__name__,
            entity=entity,
            columns=columns,
            source=source,
            refresh_ns=refresh_ns,
            max_staleness_ns=max_staleness_ns,
            problems=tuple(self._problems),
        )

    def _report(self, what: str, where: str, next_step: str) -> None:
        self._problems.append(Problem(what, f"{self._where}{where}", next_step))

    def _entity(self) -> Entity:
        entity = getattr(self._view, "entity", None)
        if not isinstance(entity, Entity):
            what = "the view names no entity" if entity is None else f"{entity!r} is not an Entity"
            self._report(what, ".entity", 'write `entity = customer`, with customer = tr.Entity("customer", key="…")')
            return Entity("", "")
        if not _IDENTIFIER.fullmatch(entity.name):
            self._report(f"the entity's name {entity.name!r} is not an identifier", ".entity",
                         "use letters, digits and underscores: it is part of every key in the store")  # fmt: skip
        return entity

    def _source(self) -> Source:
        source = getattr(self._view, "source", None)
        if isinstance(source, Source) and type(source) is not Source:
            self._renames(source)
            return source
        what = "the view names no source" if source is None else f"{source!r} is not a source"
        self._report(what, ".source", 'write `source = tr.Parquet("data/…", time="…")`, tr.CSV(…) or tr.SQL(…)')
        return Parquet("")

    def _renames(self, source: Source) -> None:
        known = self._annotations()
        for name in source.columns:
            if name not in known:
                self._report(f"the source renames {name!r}, which the view does not declare", ".source",
                             f"declare it as a column, or take it out of columns={{{name!r}: …}}")  # fmt: skip

    def _refresh_ns(self) -> int:
        refresh = self._view.refresh
        try:
            return refresh.duration_ns
        except (ValueError, AttributeError) as error:
            what = str(error) if isinstance(refresh, Every) else f"{refresh!r} is not an interval"
            self._report(what, ".refresh", 'write `refresh = tr.every("1h")`')
            return 0

    def _max_staleness_ns(self) -> int | None:
        text = self._view.max_staleness
        if text is None:
            return None
        try:
            return parse_duration(text)
        except (ValueError, TypeError):
            self._report(f"{text!r} is not a duration", ".max_staleness", 'write `max_staleness = "1d"`, or None')
            return None

    def _annotations(self) -> dict[str, Any]:
        """Return the annotated names of the view and the views it extends, base first, as written."""
        found: dict[str, Any] = {}
        for base in reversed(self._view.__mro__):
            if issubclass(base, BatchFeatureView) and base is not BatchFeatureView:
                found |= inspect.get_annotations(base)
        return found

    def _columns(self) -> tuple[Column, ...]:
        annotations = self._annotations()
        try:
            hints = get_type_hints(self._view)
        except Exception as error:  # an annotation may be any expression
            self._report(f"an annotation cannot be read: {error}", "", "import the name it uses at the file's top")
            return ()
        found = (self._column(name, hints[name]) for name in annotations if get_origin(hints[name]) is not ClassVar)
        columns = tuple(column for column in found if column is not None)
        if not annotations:
            self._report("the view has no columns", "", "declare one with its default: `avg_amount_90d: float = 0.0`")
        if len(columns) > COLUMNS_MAX:
            self._report(f"{len(columns)} columns are more than {COLUMNS_MAX}", "", "split the view in two")
        return columns

    def _column(self, name: str, annotation: Any) -> Column | None:
        where = f".{name}"
        if name in _RESERVED or name.startswith("_"):
            self._report(f"{name!r} cannot name a column", where, "rename it, with columns={…} on the source")
            return None
        dtype = _dtype_of(annotation)
        if dtype is None:
            self._report(f"{_type_name(annotation)} is not a type a column may have", where,
                         "use float, int, bool, str, or a number type of NumPy such as np.float32")  # fmt: skip
            return None
        default = getattr(self._view, name, _NO_DEFAULT)
        if isinstance(default, Column):  # declared by a view that this one extends
            default = default.default
        if default is _NO_DEFAULT:
            self._report("the column has no default", where,
                         "give the value that answers for an unknown entity, as in `= 0.0`")  # fmt: skip
            return None
        mistake = _default_mistake(dtype, default)
        if mistake:
            self._report(f"the default {default!r} {mistake}", where, f"give a {_type_name(annotation)}")
            return None
        return Column(name, dtype, default, self._view.__name__)


def _dtype_of(annotation: Any) -> np.dtype[Any] | None:
    """Return the dtype of a column annotated so; None where there is none."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation in _BUILTIN_DTYPES:
        return _BUILTIN_DTYPES[annotation]
    if not isinstance(annotation, type) or not issubclass(annotation, np.bool_ | np.integer | np.floating):
        return None
    if annotation not in np.sctypeDict.values():  # an abstract type such as np.floating
        return None
    dtype = np.dtype(annotation).newbyteorder("<")
    return dtype if dtype.itemsize <= 8 and dtype != np.float16 else None


def _default_mistake(dtype: np.dtype[Any], default: Any) -> str:
    """Return what is wrong with a default, "" where nothing is."""
    match dtype.kind:
        case "O" if not isinstance(default, str):
            return "is not a text"
        case "O":
            return "is too long" if len(default.encode("utf-8", "replace")) > STRING_BYTES_MAX else ""
        case "b":
            return "" if isinstance(default, bool | np.bool_) else "is not a bool"
        case "f":
            number = isinstance(default, int | float | np.integer | np.floating) and not isinstance(default, bool)
            return "" if number else "is not a number"
    if not isinstance(default, int | np.integer) or isinstance(default, bool):
        return "is not an int"
    limits = np.iinfo(dtype)
    return "" if limits.min <= int(default) <= limits.max else f"does not fit {dtype.name}"


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
