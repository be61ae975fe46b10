"""The model as a pipeline declares it: a name, where it lies, and what answers in its place. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Constant:
    """A fallback that answers one score for every row that the model cannot score.

    Raises ValueError for a score that is not a finite number.
    """

    value: float

    def __post_init__(self) -> None:
        if not isinstance(self.value, int | float) or not isfinite(self.value):
            raise ValueError(f"Constant({self.value!r}): a fallback score must be a finite number")


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

    def directory(self, beside: Path) -> Path:
        """Return the model's directory for a pipeline declared in the folder `beside`."""
        return beside / (self.path if self.path is not None else Path("models") / self.name)
