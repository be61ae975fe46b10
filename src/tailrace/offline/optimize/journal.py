"""The work folder of an optimisation: what is finished is a line of its file, so that a run that was killed goes on."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final, Literal

import msgspec

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import SessionSettings
from tailrace.offline.optimize.processes import Limits
from tailrace.offline.optimize.recipes import Recipe
from tailrace.offline.optimize.timing import Timing

LINES_FILE: Final = "trials.jsonl"
BASELINE: Final = "baseline"
MODELS: Final = "models"
EVIDENCE_FILE: Final = "rows.npz"
FORMAT: Final = 3


class Trial(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """A candidate: a recipe by a backend. why: it failed or was skipped.

    size_bytes: of the file that the backend computes. metric: on the rows that judge. difference_max: between a score
    and the baseline's, of these rows. loss_error: the standard error of how much worse the metric is than the
    baseline's. limits: under which it failed, which a run with others tries again.
    """

    recipe: Recipe
    backend: str
    status: Literal["measured", "failed", "skipped"]
    why: str = ""
    size_bytes: int = 0
    metric: float = 0.0
    difference_max: float = 0.0
    loss_error: float = 0.0
    limits: Limits | None = None
    timings: tuple[Timing, ...] = ()

    @property
    def name(self) -> str:
        """What was tried, in words."""
        return f"{self.recipe.name} · {self.backend}" if self.backend else self.recipe.name

    @property
    def is_as_packaged(self) -> bool:
        """Whether it is what is served without any of this."""
        return self.recipe.kind == "as packaged" and self.recipe.session == SessionSettings()


class Proposed(msgspec.Struct, frozen=True, tag="proposed"):
    """The recipes that were found for the model."""

    recipes: tuple[Recipe, ...]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The first line: what the run is about. Another model, file or question is another run."""

    format: int
    key: str


Line = Begun | Proposed | Trial


class Journal:
    """The work folder, held by one run. Raises ModelPackageError where another holds it, or it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / LINES_FILE).exists() and any(each.name != ".lock" for each in folder.iterdir()):
            raise ModelPackageError(
                "the folder holds other things, which a run would remove", where=str(folder),
                next="give a --work that is not there yet, or is of an earlier run",
            )  # fmt: skip
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ModelPackageError(
                "another run works there", where=str(folder), next="wait for it, or give another --work"
            ) from None
        self.proposed: tuple[Recipe, ...] | None = None
        self.trials: list[Trial] = []

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def begin(self, key: str, limits: Limits) -> bool:
        """Take up what a run with this key has finished; return whether there was one. Else all of it is removed.

        What failed under other limits than these is left out, so that it is tried again; and what was skipped for want
        of a library, which may be there by now.
        """
        lines = [each for each in self._read() if not isinstance(each, Trial) or _still_holds(each, limits)]
        if lines and lines[0] == Begun(FORMAT, key) and (self.folder / BASELINE).is_dir():
            for line in lines:
                if isinstance(line, Proposed):
                    self.proposed = line.recipes
                elif isinstance(line, Trial):
                    self.trials.append(line)
            self._write(lines)  # without a last line that was cut short
            return True
        for name in (BASELINE, MODELS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.models.mkdir()
        self._write([Begun(FORMAT, key)])
        return False

    @property
    def baseline(self) -> Path:
        """The model directory that everything is made of."""
        return self.folder / BASELINE

    @property
    def models(self) -> Path:
        """The folder of the models that were made."""
        return self.folder / MODELS

    @property
    def evidence(self) -> Path:
        """The file of rows."""
        return self.folder / EVIDENCE_FILE

    def note(self, line: Proposed | Trial) -> None:
        """Write down what is finished."""
        if isinstance(line, Proposed):
            self.proposed = line.recipes
        else:
            self.trials.append(line)
        with (self.folder / LINES_FILE).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def find(self, recipe: Recipe, backend: str) -> Trial | None:
        """Return the trial of a recipe by a backend, where it is finished."""
        return next((each for each in self.trials if (each.recipe, each.backend) == (recipe, backend)), None)

    def _read(self) -> list[Line]:
        """Return the lines, up to the first that cannot be read."""
        lines: list[Line] = []
        try:
            content = (self.folder / LINES_FILE).read_bytes()
        except OSError:
            return lines
        for text in content.splitlines():
            try:
                lines.append(msgspec.json.decode(text, type=Line))
            except msgspec.DecodeError:
                break
        return lines

    def _write(self, lines: list[Line]) -> None:
        draft = self.folder / f".{LINES_FILE}"
        draft.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        draft.replace(self.folder / LINES_FILE)


def _still_holds(trial: Trial, limits: Limits) -> bool:
    """Return whether a run under these limits takes a trial as it is."""
    return trial.status != "skipped" and trial.limits in {None, limits}
