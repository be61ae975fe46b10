"""A model directory opened with the backend that was chosen for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.choice import BackendChoice, choose_backend
from tailrace.inference.backends.table import backend_named
from tailrace.inference.calibration import read_calibration
from tailrace.inference.manifest import CALIBRATION_FILE
from tailrace.inference.model_directory import read_while_replaced
from tailrace.inference.packaged import PackagedModel


def load_model(
    directory: str | Path, *, choice: BackendChoice | None = None, trusted: Sequence[str] = ()
) -> PackagedModel:
    """Return the model of a directory that `tailrace package` wrote.

    choice: the backend that computes it; None chooses it now (`choose_backend`). A backend is imported only where it
    computes the model. trusted: types that the user trusts, beyond those reviewed, in a file that names its types.
    Raises ModelPackageError unless the files are whole, the backend that was chosen can be used, and the golden rows
    get their expected scores.
    """
    directory = Path(directory)
    return read_while_replaced(directory, lambda: _load(directory, choice, trusted))


def _load(directory: Path, choice: BackendChoice | None, trusted: Sequence[str]) -> PackagedModel:
    """Return the model of a directory as it is now."""
    if choice is None:
        choice = choose_backend(directory)
    backend = backend_named(choice.name)
    try:
        if backend is None:
            raise OSError("this Tailrace has no such backend")
        model = backend.load(directory, trusted)
    except OSError as error:
        raise ModelPackageError(
            f"the backend chosen for it, {choice.name}, cannot compute it: {error}",
            where=str(directory),
            next="put back what it needs, or have the backend chosen again: make a new release",
        ) from error
    model.backend_reason, model.directory = choice.reason, directory
    if CALIBRATION_FILE in model.manifest.files:
        model.calibrate(read_calibration(directory / CALIBRATION_FILE))
    return model
