"""The model as a pipeline declares it: a name, where it lies, and what answers in its place. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path


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


@dataclass(frozen=True, slots=True)
class Model:
    """A packaged model, by name.

    path: the directory that `tailrace package` wrote; None means `models/<name>` beside the pipeline's file.
    fallback: what scores a row when the model fails or is late: a `Constant`, or a second `Model` with the same
        inputs. None: such a row is answered with an error.
    Raises ValueError for a name that is empty or not a file's, or a fallback that is neither or falls back to a model
    again.
    """

    name: str
    path: Path | None = field(default=None, kw_only=True)
    fallback: Constant | Model | None = field(default=None, kw_only=True)

    def __init__(self, name: str, *, path: str | Path | None = None, fallback: Constant | Model | None = None) -> None:
        if not isinstance(name, str) or not name or name in {".", ".."} or "/" in name or "\0" in name:
            raise ValueError(f"Model({name!r}): a model's name is the name of its directory, such as 'fraud'")
        if not isinstance(fallback, Constant | Model | None):
            raise ValueError(f"Model({name!r}): the fallback is {fallback!r}; write tr.Constant(0.5) or tr.Model(…)")
        if isinstance(fallback, Model) and isinstance(fallback.fallback, Model):
            raise ValueError(f"Model({name!r}): a fallback model may only fall back to a Constant")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "path", None if path is None else Path(path))
        object.__setattr__(self, "fallback", fallback)

    @property
    def constant(self) -> Constant | None:
        """What answers where no model does: the model's own constant, or its second model's; None without one."""
        return self.fallback.constant if isinstance(self.fallback, Model) else self.fallback

    @property
    def chain(self) -> tuple[Model, ...]:
        """The model, and the one that it falls back to, if that is a model too."""
        return (self, *self.fallback.chain) if isinstance(self.fallback, Model) else (self,)

    def directory(self, beside: Path) -> Path:
        """Return the model's directory for a pipeline declared in the folder `beside`."""
        return beside / (self.path if self.path is not None else Path("models") / self.name)
