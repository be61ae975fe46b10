"""A model of MLflow's registry, as what `tailrace package` takes. Pickles are loaded only where the user says so.

MLflow is asked in the Python that it lives in: it excludes versions of pandas and others that Tailrace takes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.errors import RegistryError
from tailrace.inference.backends.trusted_types import UntrustedTypesError
from tailrace.release.model_file import read_model
from tailrace.release.skops_file import load_skops

DOWNLOAD_S_MAX: Final = 3_600.0
"""For MLflow to be imported, and all files to come."""
_SHOWN_MAX: Final = 500
_URI: Final = re.compile(r"models:/[^/@\0]+(@[^/@\0]+|/[0-9]+)")
_NEXT: Final = "give --tracking-uri, and by --python the Python of an environment in which mlflow is installed"
_LOGIN: Final = re.compile(r"://[^\s/]*@")
_WITHOUT_FOLDER: Final = "import sys; sys.path[:] = [place for place in sys.path if place]; exec(sys.argv.pop(1))"
"""Takes the working directory from the places that modules are imported from: -P, which no Python below 3.11 knows."""


class MlflowModel(msgspec.Struct, frozen=True):
    """A registered model's version, downloaded.

    uri: with its number. commit: of the code that logged it, "" where MLflow does not know. flavors: what its files
    are, each with what MLflow says of it in texts.
    """

    uri: str
    run_id: str
    commit: str
    metrics: dict[str, float]
    directory: str
    flavors: dict[str, dict[str, str]]

    @property
    def told(self) -> str:
        """The version and its run, for the lineage."""
        return f"{self.uri}, run {self.run_id}" if self.run_id else self.uri


def download(uri: str, folder: Path, *, python: str, tracking_uri: str = "") -> MlflowModel:
    """Download what models:/NAME@ALIAS or models:/NAME/NUMBER names into an empty folder.

    python: the program that imports MLflow.
    Raises RegistryError for another URI, no such program, or where MLflow refuses.
    """
    if not _URI.fullmatch(uri):
        raise RegistryError(
            "it names no version of MLflow's registry",
            where=uri,
            next="write models:/NAME@ALIAS or models:/NAME/NUMBER",
        )
    script = Path(__file__).with_name("mlflow_script.py").read_text("utf-8")
    command = [python, "-c", _WITHOUT_FOLDER, script, uri, str(folder)]
    settings = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    if tracking_uri:  # it may hold a password, and all users see what a command is given
        settings["MLFLOW_TRACKING_URI"] = tracking_uri
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_S_MAX, check=False, stdin=subprocess.DEVNULL,
            env=os.environ | settings,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"cannot ask MLflow: {type(error).__name__}", where=python, next=_NEXT) from None
    if done.returncode:
        told = _LOGIN.sub("://…@", done.stderr).strip().rpartition("\n")[2][:_SHOWN_MAX]
        raise RegistryError(f"MLflow does not give it: {told}", where=uri, next=_NEXT)
    try:
        return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=MlflowModel)
    except msgspec.DecodeError as error:
        raise RegistryError(f"MLflow said what cannot be read: {error}", where=uri, next=_NEXT) from None


def load(model: MlflowModel, *, allow_pickle: bool = False) -> Any:
    """Return what can be packaged of a model: an object of its framework, or the bytes of an ONNX file.

    Each file is read as what its flavour says, whatever its name, and held to what it promises first (model_file.py).

    allow_pickle: load also what may run code of whoever made it.
    Raises RegistryError for flavours that cannot be packaged, or what is not to be loaded.
    """
    for flavor, read in _FLAVORS.items():
        if flavor in model.flavors:
            said = model.flavors[flavor]
            return read(_file_of(model, said), said, model.uri, allow_pickle)
    raise RegistryError(
        f"it was logged as {', '.join(sorted(model.flavors)) or 'nothing'}, which cannot be packaged",
        where=model.uri,
        next=f"log it as one of {', '.join(_FLAVORS)} too",
    )


def _file_of(model: MlflowModel, said: dict[str, str]) -> Path:
    """Return the file that a flavour names. Raises RegistryError for one that is not in the model's own folder."""
    folder = Path(model.directory).resolve()
    name = said.get("data") or said.get("pickled_model") or ""
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder) or not path.is_file():
        raise RegistryError(f"its file {name!r} is not among its files", where=model.uri, next="log it again")
    return path


def _read_onnx(path: Path, said: dict[str, str], where: str, allow_pickle: bool) -> Any:
    return _attempt(lambda: read_model(path, suffix=".onnx"), where)


def _read_lightgbm(path: Path, said: dict[str, str], where: str, allow_pickle: bool) -> Any:
    if _is_serialised(path, said):
        return _read_serialised(path, said, where, allow_pickle)
    return _attempt(lambda: read_model(path, suffix=".txt"), where)


def _read_xgboost(path: Path, said: dict[str, str], where: str, allow_pickle: bool) -> Any:
    return _attempt(lambda: read_model(path, suffix=".ubj"), where)


def _is_serialised(path: Path, said: dict[str, str]) -> bool:
    """Say whether a file holds Python objects, and no model of its framework's own form."""
    return path.suffix in {".pkl", ".pickle", ".skops", ".joblib"} or path.name == "model"


def _read_serialised(path: Path, said: dict[str, str], where: str, allow_pickle: bool) -> Any:
    """Return the object in a skops file or, where that is allowed, in a pickle."""
    if path.suffix == ".skops":
        return _read_skops(path, where, allow_pickle)
    if not allow_pickle:
        raise RegistryError(
            "it is a pickle, and loading one runs whatever code it holds, as you",
            where=f"{where}: {path.name}",
            next="log it with serialization_format='skops', or as ONNX; or, if you trust all who can write there, "
            "give --allow-pickle",
        )
    import pickle

    with path.open("rb") as file:
        return _attempt(lambda: pickle.load(file), where)


def _read_skops(path: Path, where: str, allow_pickle: bool) -> Any:
    """Return the object in a skops file: of types that run nothing, and all of it looked at; or of any if so told."""
    try:
        from skops import io
    except ImportError as error:
        raise RegistryError("a skops file needs the package skops", where=where, next="pip install skops") from error
    if allow_pickle:
        return _attempt(lambda: io.load(path, trusted=io.get_untrusted_types(file=path)), where)
    try:
        return _attempt(lambda: load_skops(path.read_bytes()), where)
    except RegistryError as error:
        if not isinstance(error.__cause__, UntrustedTypesError):
            raise
        raise RegistryError(
            str(error.__cause__),
            where=f"{where}: {path.name}",
            next="log it as ONNX; or, if you trust all who can write there, give --allow-pickle",
        ) from error


def _attempt(read: Callable[[], Any], where: str) -> Any:
    """Return what is read. Raises RegistryError for whatever a framework raises."""
    try:
        return read()
    except Exception as error:  # each framework raises its own, pickles raise anything
        raise RegistryError(
            f"it cannot be read: {type(error).__name__}: {error}",
            where=where,
            next="read it with the version of the framework that made it, or log it again",
        ) from error


_FLAVORS: Final[dict[str, Callable[[Path, dict[str, str], str, bool], Any]]] = {
    "onnx": _read_onnx,
    "lightgbm": _read_lightgbm,
    "xgboost": _read_xgboost,
    "sklearn": _read_serialised,
}
"""What can be packaged, the surest first."""
