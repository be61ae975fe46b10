"""The declaration of feature views: what every kind of them has. No I/O.

A view is declared by subclassing a kind: `BatchFeatureView` (batch_views.py). Mistakes in it are collected in its
`spec`, so that a pipeline's compile error can report all of them at once.
"""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin, get_type_hints

import numpy as np
from msgspec import Meta

from tailrace.deadline import parse_duration
from tailrace.errors import Problem
from tailrace.features.view_spec import STRING_BYTES_MAX, Column, Entity, KeyPart, ViewSpec

COLUMNS_MAX: Final = 1_000
VECTOR_MAX: Final = 4_096
"""The longest vector that a column holds."""
KEY_FIELDS_MAX: Final = 8

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NO_DEFAULT: Final = object()
_VECTOR_DTYPES: Final[dict[type, np.dtype[Any]]] = {
    float: np.dtype("<f4"), np.float16: np.dtype("<f2"), np.float32: np.dtype("<f4"), np.float64: np.dtype("<f8"),
}  # fmt: skip
_BUILTIN_DTYPES: Final = {float: np.dtype("<f8"), int: np.dtype("<i8"), bool: np.dtype("?"), str: np.dtype(object)}


class FeatureView:
    """Base of the kinds of views. On a view's class, a column's name is its `Column`.

    A kind says what its declaration holds (`_read`); its spec says how its values stand in the store.
    """

    entity: ClassVar[Entity]
    max_staleness: ClassVar[str | None] = None
    spec: ClassVar[ViewSpec]

    def __init_subclass__(cls, *, is_kind: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if is_kind:
            return
        cls.spec = cls._read()
        for column in cls.spec.columns:
            setattr(cls, column.name, column)

    @classmethod
    def _read(cls) -> ViewSpec:
        """Return what the class declares, with its mistakes."""
        raise NotImplementedError


class Reading:
    """One view's declaration while it is read: what it says, and every mistake found on the way.

    reserved: the names of the kind's settings, which no column may have. advice: for a column without a default.
    has_vectors: whether its columns may be vectors.
    """

    advice = "give the value that answers for an unknown entity, as in `= 0.0`"
    has_vectors = False

    def __init__(self, view: type[FeatureView], reserved: frozenset[str]) -> None:
        self._view = view
        self._reserved = reserved
        self._where = f"features.{view.__name__}"
        self.problems: list[Problem] = []

    def report(self, what: str, where: str, next_step: str) -> None:
        """Note a mistake. where: within the view, as in ".source"."""
        self.problems.append(Problem(what, f"{self._where}{where}", next_step))

    def entity(self) -> Entity:
        """Return the entity."""
        entity = getattr(self._view, "entity", None)
        if not isinstance(entity, Entity):
            what = "the view names no entity" if entity is None else f"{entity!r} is not an Entity"
            self.report(what, ".entity", 'write `entity = customer`, with customer = tr.Entity("customer", key="…")')
            return Entity("", "")
        if not _IDENTIFIER.fullmatch(entity.name):
            self.report(f"the entity's name {entity.name!r} is not an identifier", ".entity",
                         "use letters, digits and underscores: it is part of every key in the store")  # fmt: skip
        if what := _key_mistake(entity):
            self.report(f"the entity's key {_spelled(entity)} {what}", ".entity",
                        'write key="customer_id", key=("customer_id", "terminal_id"), or key=ItemProfile.category_id, '
                        "a column of a view that is declared before")  # fmt: skip
            return Entity(entity.name, "")
        return entity

    def max_staleness_ns(self) -> int | None:
        """Return the age from which a value is stale; None for never."""
        text = self._view.max_staleness
        if text is None:
            return None
        try:
            return parse_duration(text)
        except (ValueError, TypeError):
            self.report(f"{text!r} is not a duration", ".max_staleness", 'write `max_staleness = "1d"`, or None')
            return None

    def annotations(self) -> dict[str, Any]:
        """Return the annotated names of the view and the views it extends, base first, as written."""
        found: dict[str, Any] = {}
        for base in reversed(self._view.__mro__):
            if base is self._view or "spec" in vars(base):  # else a kind
                found |= inspect.get_annotations(base)
        return found

    def columns(self) -> tuple[Column, ...]:
        """Return the columns, in declared order."""
        annotations = self.annotations()
        try:
            hints = get_type_hints(self._view, include_extras=True)
        except Exception as error:  # an annotation may be any expression
            self.report(f"an annotation cannot be read: {error}", "", "import the name it uses at the file's top")
            return ()
        found = (self._column(name, hints[name]) for name in annotations if get_origin(hints[name]) is not ClassVar)
        columns = tuple(column for column in found if column is not None)
        if not annotations:
            self.report("the view has no columns", "", "declare one with its default: `avg_amount_90d: float = 0.0`")
        if len(columns) > COLUMNS_MAX:
            self.report(f"{len(columns)} columns are more than {COLUMNS_MAX}", "", "split the view in two")
        return columns

    def default_of(self, name: str) -> Any:
        """Return the default that is declared for a column, `NO_DEFAULT` where there is none."""
        default = getattr(self._view, name, NO_DEFAULT)
        return default.default if isinstance(default, Column) else default  # declared by a view that this one extends

    def _column(self, name: str, annotation: Any) -> Column | None:
        where = f".{name}"
        if name in self._reserved or name.startswith("_"):
            self.report(f"{name!r} cannot name a column", where, "rename it, with columns={…} on the source")
            return None
        width, dtype = _vector_of(annotation) if self.has_vectors else (0, None)
        dtype = dtype or _dtype_of(annotation)
        if dtype is None:
            self.report(f"{_type_name(annotation)} is not a type a column may have", where,
                         "use float, int, bool, str, a number type of NumPy such as np.float32, or in a batch view a "
                         "vector, Annotated[list[float], tr.Field(min_length=8, max_length=8)]")  # fmt: skip
            return None
        default = self.default_of(name)
        if default is NO_DEFAULT:
            self.report("the column has no default", where, self.advice)
            return None
        mistake = _vector_mistake(width, default) if width else _default_mistake(dtype, default)
        if mistake and width:
            self.report(f"the default {mistake}", where, f"give {width} numbers: `= [0.0] * {width}`")
            return None
        if mistake:
            self.report(f"the default {default!r} {mistake}", where, f"give a {_type_name(annotation)}")
            return None
        default = tuple(map(float, default)) if width else default
        return Column(name, dtype, default, self._view.__name__, self._view, width)


def view_of(column: Column) -> type[FeatureView] | None:
    """Return the view that a column is of; None for one that is of none."""
    view = column.declared_by
    if view is None or not issubclass(view, FeatureView) or vars(view).get(column.name) is not column:
        return None
    return view


def _key_mistake(entity: Entity) -> str:
    """Return what is wrong with the key of an entity, "" where nothing is."""
    if not all(isinstance(part, KeyPart) for part in entity.parts):
        return "is neither the name of a field, nor a column of a view, nor a tuple of them"
    if any(view_of(column) is None for column in entity.columns):
        return "has a column that no view has"
    if not entity.is_composite:
        return ""
    if not 1 < len(entity.parts) <= KEY_FIELDS_MAX:
        return f"has {len(entity.parts)} fields; a tuple has 2 to {KEY_FIELDS_MAX}"
    return "" if len(set(entity.fields)) == len(entity.parts) else "names a field twice"


def _spelled(entity: Entity) -> str:
    """Return the key of an entity as it is written."""
    parts = [f"{part.view}.{part.name}" if isinstance(part, Column) else repr(part) for part in entity.parts]
    return f"({', '.join(parts)}{',' * (len(parts) == 1)})" if entity.is_composite else parts[0]


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


def _vector_of(annotation: Any) -> tuple[int, np.dtype[Any] | None]:
    """Return the length and the dtype of a vector: a list of numbers of one length. 0 and None for any other type.

    float is kept as float32, in which models take vectors; np.float16, np.float32 and np.float64 as they are.
    """
    base, *metas = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    lengths = [meta.min_length for meta in metas if isinstance(meta, Meta) and meta.min_length == meta.max_length]
    if get_origin(base) is not list or not lengths or not 1 < (lengths[0] or 0) <= VECTOR_MAX:
        return 0, None
    dtype: np.dtype[Any] | None = _VECTOR_DTYPES.get(get_args(base)[0])
    return (lengths[0], dtype) if lengths[0] and dtype else (0, None)


def _vector_mistake(width: int, default: Any) -> str:
    """Return what is wrong with the default of a vector, "" where nothing is."""
    if not isinstance(default, list | tuple) or len(default) != width:
        return "is no vector of that length"
    return "" if all(_default_mistake(np.dtype("<f8"), each) == "" for each in default) else "holds other than numbers"


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
