"""Stages that are made of others, as a pipeline declares them; each may be a member of any other. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import fsum, isfinite
from typing import Any, Final, Self, TypeVar, cast

from tailrace.inference.declaration import Constant, StageDeclaration, walk_declared

SHARES_TOLERANCE: Final = 1e-9
"""How far the sum of a split's shares may be from 1, for shares such as 1/3."""


Kind = TypeVar("Kind", bound="Composition")


class Composition(StageDeclaration, ABC):
    """A stage that is made of others. Frozen."""

    __slots__ = ()

    @property
    @abstractmethod
    def members(self) -> tuple[StageDeclaration, ...]:
        """The stages that it is made of."""

    @abstractmethod
    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members, as many of them."""

    @property
    def reads(self) -> tuple[Any, ...]:
        """What it takes of a row beside what its members do: a field of the request, a view, or a view's column."""
        return ()

    @property
    def branches(self) -> tuple[str, ...]:
        """The ways that a row may go, in the order of the members; none where a row goes to all of them."""
        return ()


def compositions_of(declared: StageDeclaration) -> tuple[Composition, ...]:
    """Return the stages that are made of others, from the outermost in; each once."""
    return tuple(dict.fromkeys(found for found in walk_declared(declared) if isinstance(found, Composition)))


def splits_of(declared: StageDeclaration) -> tuple[Split, ...]:
    """Return the splits of a stage, from the outermost in; each once."""
    return tuple(found for found in compositions_of(declared) if isinstance(found, Split))


@dataclass(frozen=True, slots=True)
class Ensemble(Composition):
    """The weighted mean of what several stages say, scores or class probabilities.

    weights: of each member, above zero; None for equal ones. A member that cannot score a row, or is late, is left out
    of its mean, and the row is degraded; a member with a fallback of its own is asked for that. floor: the share of the
    weights that must have answered; below it the row takes the fallback. fallback: a `Constant`; None fails such a row.
    """

    name: str
    models: tuple[StageDeclaration, ...]
    weights: tuple[float, ...]
    floor: float
    fallback: Constant | None

    def __init__(
        self,
        name: str,
        models: Sequence[StageDeclaration],
        *,
        weights: Sequence[float] | None = None,
        floor: float = 0.5,
        fallback: Constant | None = None,
    ) -> None:
        where = _where(type(self), name)
        given = tuple(models)
        _check_members(where, given)
        own = (1.0,) * len(given) if weights is None else tuple(weights)
        if len(own) != len(given):
            raise ValueError(f"{where}: {len(own)} weights for {len(given)} models; write one each, in their order")
        if not all(_is_number(weight) and isfinite(weight) and weight > 0 for weight in own):
            raise ValueError(f"{where}: the weights are {list(own)}; each must be a number above zero")
        if not _is_number(floor) or not 0 < floor <= 1:
            raise ValueError(f"{where}: the floor is {floor!r}; it is the share of the weights that must answer, to 1")
        if not isinstance(fallback, Constant | None):
            raise ValueError(f"{where}: the fallback is {fallback!r}; write tr.Constant(0.5)")
        _set(self, name=name, models=given, weights=own, floor=float(floor), fallback=fallback)

    @property
    def constant(self) -> Constant | None:
        """What answers where too few members do."""
        return self.fallback

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """Those whose mean it is."""
        return self.models

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members."""
        return _with(self, models=tuple(members))


@dataclass(frozen=True, slots=True)
class Cascade(Composition):
    """A cheap stage that decides the clear cases, and an expensive one that is asked for the rest of a batch's rows.

    unsure: the lowest and the highest score of the cheap one that is not clear, both included; of a classifier of many
    classes that of its likeliest one. Where the expensive one cannot score a row, or is late, the cheap score stands,
    and the row is degraded.
    """

    name: str
    cheap: StageDeclaration
    expensive: StageDeclaration
    unsure: tuple[float, float]

    def __init__(
        self, name: str, cheap: StageDeclaration, expensive: StageDeclaration, *, unsure: tuple[float, float]
    ) -> None:
        where = _where(type(self), name)
        _check_members(where, (cheap, expensive))
        if not isinstance(unsure, Sequence) or isinstance(unsure, str) or not _is_range(tuple(unsure)):
            raise ValueError(f"{where}: unsure is {unsure!r}; write the lowest and the highest such score: (0.1, 0.8)")
        for stage in walk_declared(expensive):  # a model, here or far away, or an ensemble
            if stage.constant is not None:
                raise ValueError(f"{where}: {stage.name!r} falls back to a constant; leave that out, where it is late "
                                 "the cheap score stands")  # fmt: skip
        low, high = unsure
        _set(self, name=name, cheap=cheap, expensive=expensive, unsure=(float(low), float(high)))

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """The cheap one, then the expensive one."""
        return (self.cheap, self.expensive)

    @property
    def branches(self) -> tuple[str, ...]:
        """Whose score stands."""
        return ("cheap", "expensive")

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members."""
        cheap, expensive = members
        return _with(self, cheap=cheap, expensive=expensive)


@dataclass(frozen=True, slots=True)
class ColdStart(Composition):
    """One stage for the rows whose entity a view knows, another for those that have only its defaults.

    view: a feature view. A row that the store did not give in time is not unknown: its degraded defaults go to `known`.
    """

    name: str
    known: StageDeclaration
    unknown: StageDeclaration
    view: type[Any]

    def __init__(self, name: str, *, known: StageDeclaration, unknown: StageDeclaration, view: type[Any]) -> None:
        where = _where(type(self), name)
        _check_members(where, (known, unknown))
        if not isinstance(view, type):
            raise ValueError(f"{where}: view is {view!r}; name a feature view")
        _set(self, name=name, known=known, unknown=unknown, view=view)

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """That of the known, then that of the unknown."""
        return (self.known, self.unknown)

    @property
    def branches(self) -> tuple[str, ...]:
        """Whether the entity is known."""
        return ("known", "unknown")

    @property
    def reads(self) -> tuple[Any, ...]:
        """The view."""
        return (self.view,)

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members."""
        known, unknown = members
        return _with(self, known=known, unknown=unknown)


@dataclass(frozen=True, slots=True)
class Split(Composition):
    """An A/B test: a row goes to one of several variants by a hash of its id, the same everywhere and for ever.

    variants: their stages by their names. by: the id, an int or a str: a field of the request, or a view's
    column. shares: of each variant, together 1. salt: another one is another draw; None for the split's
    name. The variants lie beside each other in the order of `variants`, each as wide as its share: where the edge
    between two neighbours moves, rows go from the one to the other, and no other row moves.
    """

    name: str
    variants: tuple[tuple[str, StageDeclaration], ...]
    by: Any
    shares: tuple[float, ...]
    salt: str

    def __init__(
        self,
        name: str,
        variants: Mapping[str, StageDeclaration],
        *,
        by: Any,
        shares: Mapping[str, float],
        salt: str | None = None,
    ) -> None:
        where = _where(type(self), name)
        if not isinstance(variants, Mapping) or not all(isinstance(label, str) and label for label in variants):
            raise ValueError(f'{where}: the variants are {variants!r}; write {{"a": tr.Model(…), "b": tr.Model(…)}}')
        _check_members(where, tuple(variants.values()))
        if not isinstance(shares, Mapping) or shares.keys() != variants.keys():
            raise ValueError(f"{where}: the shares are {shares!r}; give one to each of {', '.join(variants)}")
        own = tuple(shares[label] for label in variants)
        if not all(_is_number(share) and 0 <= share <= 1 for share in own) or abs(fsum(own) - 1) > SHARES_TOLERANCE:
            raise ValueError(f"{where}: the shares are {dict(shares)}; they are parts of 1, and together 1")
        if not isinstance(salt, str | None):
            raise ValueError(f"{where}: the salt is {salt!r}; it is a text")
        _set(self, name=name, variants=tuple(variants.items()), by=by, shares=tuple(map(float, own)),
             salt=name if salt is None else salt)  # fmt: skip

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """The stages of the variants."""
        return tuple(stage for _, stage in self.variants)

    @property
    def branches(self) -> tuple[str, ...]:
        """The variants' names."""
        return tuple(label for label, _ in self.variants)

    @property
    def reads(self) -> tuple[Any, ...]:
        """The id."""
        return (self.by,)

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members."""
        return _with(self, variants=tuple(zip(self.branches, members, strict=True)))


@dataclass(frozen=True, slots=True)
class Route(Composition):
    """A stage for each value of a field.

    routes: by the value, a str or an int. by: a field of the request, or a view's column. default: for every other
    value; without one the field must list its values (a Literal, an Enum), and each must have a route, which is checked
    when the pipeline is compiled.
    """

    name: str
    routes: tuple[tuple[str | int, StageDeclaration], ...]
    by: Any
    default: StageDeclaration | None

    def __init__(
        self,
        name: str,
        routes: Mapping[Any, StageDeclaration],
        *,
        by: Any,
        default: StageDeclaration | None = None,
    ) -> None:
        where = _where(type(self), name)
        if not isinstance(routes, Mapping) or not all(isinstance(value, str | int) for value in routes):
            raise ValueError(f'{where}: the routes are {routes!r}; write {{"web": tr.Model(…), "shop": tr.Model(…)}}')
        _check_members(where, (*routes.values(), *(() if default is None else (default,))))
        _set(self, name=name, routes=tuple(routes.items()), by=by, default=default)

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """The stages of the routes, then the default's."""
        return (*(stage for _, stage in self.routes), *(() if self.default is None else (self.default,)))

    @property
    def branches(self) -> tuple[str, ...]:
        """The values as texts, then "default"."""
        return (*(str(value) for value, _ in self.routes), *(() if self.default is None else ("default",)))

    @property
    def reads(self) -> tuple[Any, ...]:
        """The field."""
        return (self.by,)

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members."""
        own = members[: len(self.routes)]
        routes = tuple((value, stage) for (value, _), stage in zip(self.routes, own, strict=True))
        return _with(self, routes=routes, default=None if self.default is None else members[-1])


def _where(kind: type[Composition], name: object) -> str:
    """Return what an error is about. Raises ValueError for a name that is none."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{kind.__name__}({name!r}): the name of its scores is a text, such as 'fraud'")
    return f"{kind.__name__}({name!r})"


def _check_members(where: str, members: Sequence[object]) -> None:
    """Raise ValueError unless there is a member, and each is a stage."""
    if not members:
        raise ValueError(f"{where}: it is made of nothing; give it models")
    for member in members:
        if not isinstance(member, StageDeclaration):
            raise ValueError(f"{where}: {member!r} is no stage; write tr.Model(…), or a composition of models")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(values: tuple[Any, ...]) -> bool:
    """Say whether these are two numbers, the second not below the first."""
    return len(values) == 2 and all(map(_is_number, values)) and values[0] <= values[1]


def _set(declared: Composition, **given: Any) -> None:
    """Give a frozen declaration its fields."""
    for name, value in given.items():
        object.__setattr__(declared, name, value)


def _with(declared: Kind, **others: Any) -> Kind:
    """Return a copy of a declaration, whose fields were checked, with others of the same kind."""
    made = object.__new__(type(declared))
    given = {each.name: getattr(declared, each.name) for each in fields(cast(Any, declared))}
    _set(made, **(given | others))
    return made
