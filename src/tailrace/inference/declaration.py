"""What scores, as a pipeline declares it: a model by its name, or models composed (composition/). No I/O."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import ClassVar, Final, Self

from tailrace.deadline import parse_duration
from tailrace.inference.backends.trusted_types import check_trust

INSTANCES_MAX: Final = 64
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}@[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Constant:
    """A fallback that answers the same for every row that the model cannot score.

    value: the score, for a model that gives one (a regression, or a classifier of two classes). For a model of more
        classes either a label of the decision, which gets the probability 1 and the others 0: one of the names given
        to `tr.labels`, else the model's name of the class, as text; or one number a class, in the model's order. Kept
        as a tuple. Which of them a model takes is checked when the pipeline is compiled.
    Raises ValueError for what is neither a finite number, nor a text, nor a sequence of finite numbers.
    """

    value: float | str | Sequence[float]

    def __post_init__(self) -> None:
        value = self.value
        if isinstance(value, str) or _is_finite(value):
            return
        if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
            raise ValueError(f"Constant({value!r}): a fallback score must be a finite number, or a class's label")
        if not value or not all(map(_is_finite, value)):
            raise ValueError(f"Constant({value!r}): the fallback of many classes must be one finite number each")
        object.__setattr__(self, "value", tuple(value))


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


class StageDeclaration(ABC):
    """What a pipeline may have as its model: a stage, which may be made of others. Frozen.

    name: of its scores. second_is_stage: whether the model that it falls back to has inputs of its own; else it takes
    the same.
    """

    __slots__ = ()

    name: str
    second_is_stage: ClassVar[bool] = False

    @property
    def members(self) -> tuple[StageDeclaration, ...]:
        """The stages that it is made of; none for a model."""
        return ()

    @property
    def second(self) -> StageDeclaration | None:
        """The model that it falls back to, if that is one."""
        return None

    @property
    def constant(self) -> Constant | None:
        """What answers where no model does; None without one."""
        return None

    def with_members(self, members: Sequence[StageDeclaration]) -> Self:
        """Return the same of other members, as many of them."""
        return self

    def with_second(self, second: StageDeclaration) -> Self:
        """Return the same with another model to fall back to, in the place of the one it has."""
        return self


def walk_declared(declared: StageDeclaration) -> Iterator[StageDeclaration]:
    """Give a stage and all that is packaged with it, in their order: what it is made of, and what stands in for it."""
    yield declared
    for part in (*declared.members, *(() if declared.second is None else (declared.second,))):
        yield from walk_declared(part)


def asked_of(declared: StageDeclaration) -> tuple[StageDeclaration, ...]:
    """Return the models that a stage asks, in their order, without those that they fall back to; each once."""
    if not declared.members:
        return (declared,)
    return tuple(dict.fromkeys(model for member in declared.members for model in asked_of(member)))


def models_with_inputs(declared: StageDeclaration) -> tuple[StageDeclaration, ...]:
    """Return the models that have inputs of their own: those that are asked, then those that such fall back to."""
    asked = asked_of(declared)
    seconds = (each.second for each in asked if each.second_is_stage and each.second is not None)
    return tuple(dict.fromkeys((*asked, *seconds)))


def change_all(declared: StageDeclaration, change: Callable[[StageDeclaration], StageDeclaration]) -> StageDeclaration:
    """Return a stage with all that `walk_declared` gives changed, in that order. change: keeps members and second."""
    own = change(declared)
    if own.members:
        own = own.with_members([change_all(member, change) for member in own.members])
    return own if own.second is None else own.with_second(change_all(own.second, change))


def models_of(declared: StageDeclaration) -> tuple[Model, ...]:
    """Return the packaged models of a stage, and those that are fallen back to, in their order."""
    return tuple(found for found in walk_declared(declared) if isinstance(found, Model))


def with_paths(declared: StageDeclaration, paths: Iterator[Path]) -> StageDeclaration:
    """Return a stage whose packaged models lie elsewhere. paths: as many as `models_of` gives, in their order."""

    def moved(each: StageDeclaration) -> StageDeclaration:
        return replace(each, path=next(paths), version=None, registry=None) if isinstance(each, Model) else each

    return change_all(declared, moved)


@dataclass(frozen=True, slots=True)
class Model(StageDeclaration):
    """A packaged model, by name.

    path: the directory that `tailrace package` wrote; None means `models/<name>` beside the pipeline's file.
    version: a version in a registry instead, as "fraud@3" or, by an alias, "fraud@production". Which one an alias names
        is looked up when a release is made, and stays so for that release. registry: the URL of that registry; None
        takes the one that the command line names.
    fallback: what scores a row when the model fails or is late: a `Constant`, or a second `Model` with the same
        inputs. None: such a row is answered with an error.
    instances: how many batches of a model that is too heavy for the loop run at once, on a thread each. max_wait: how
        long such a model, when it is idle, may wait for more rows where that saves time for all, as "2ms"; 0 never
        waits.
    trust: classes of scikit-learn and the like, by their full names, that its file may hold beyond those reviewed.
    Raises ValueError for a name that is empty or not a file's, a fallback that is neither or falls back to a model
    again, a version that is none or has a path too, instances that are not 1 to 64, or a wait that is no duration.
    """

    name: str
    path: Path | None = field(default=None, kw_only=True)
    fallback: Constant | Model | None = field(default=None, kw_only=True)
    instances: int = field(default=1, kw_only=True)
    max_wait: str | int = field(default=0, kw_only=True)
    version: str | None = field(default=None, kw_only=True)
    registry: str | None = field(default=None, kw_only=True)
    trust: Sequence[str] = field(default=(), kw_only=True)

    def __init__(
        self,
        name: str,
        *,
        path: str | Path | None = None,
        fallback: Constant | Model | None = None,
        instances: int = 1,
        max_wait: str | int = 0,
        version: str | None = None,
        registry: str | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        if not isinstance(name, str) or not name or name in {".", ".."} or "/" in name or "\0" in name:
            raise ValueError(f"Model({name!r}): a model's name is the name of its directory, such as 'fraud'")
        if not isinstance(fallback, Constant | Model | None):
            raise ValueError(f"Model({name!r}): the fallback is {fallback!r}; write tr.Constant(0.5) or tr.Model(…)")
        if isinstance(fallback, Model) and isinstance(fallback.fallback, Model):
            raise ValueError(f"Model({name!r}): a fallback model may only fall back to a Constant")
        if not isinstance(instances, int) or isinstance(instances, bool) or not 1 <= instances <= INSTANCES_MAX:
            raise ValueError(f"Model({name!r}): instances={instances!r} is not a number from 1 to {INSTANCES_MAX}")
        if max_wait != 0:
            parse_duration(str(max_wait))
        _check_version(name, path, version, registry)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "path", None if path is None else Path(path))
        object.__setattr__(self, "fallback", fallback)
        object.__setattr__(self, "instances", instances)
        object.__setattr__(self, "max_wait", max_wait)
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "registry", registry)
        object.__setattr__(self, "trust", check_trust(trust))

    @property
    def max_wait_ns(self) -> int:
        """How long the model may wait for more rows when it is idle."""
        return parse_duration(str(self.max_wait)) if self.max_wait else 0

    @property
    def constant(self) -> Constant | None:
        """What answers where no model does: the model's own constant, or its second model's; None without one."""
        return self.fallback.constant if isinstance(self.fallback, Model) else self.fallback

    @property
    def second(self) -> Model | None:
        """The model that it falls back to, if that is one."""
        return self.fallback if isinstance(self.fallback, Model) else None

    def with_second(self, second: StageDeclaration) -> Self:
        """Return the same with another model to fall back to."""
        assert isinstance(second, Model)
        return replace(self, fallback=second)

    def directory(self, beside: Path) -> Path:
        """Return the model's directory for a pipeline declared in the folder `beside`.

        Of a version in a registry it is where one fetches it to, to have it without a release: models/<version>.
        """
        return beside / (self.path if self.path is not None else Path("models") / (self.version or self.name))


def _check_version(name: str, path: str | Path | None, version: str | None, registry: str | None) -> None:
    """Raise ValueError for a version that is not written as one, or that has a path or no use."""
    if version is None and registry is not None:
        raise ValueError(f"Model({name!r}): registry= says where a version lies; write version='{name}@production'")
    if version is None:
        return
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ValueError(
            f"Model({name!r}): version={version!r} names no version; write '{name}@3' or '{name}@production'"
        )
    if path is not None:
        raise ValueError(f"Model({name!r}): it has a path or a version, not both")
