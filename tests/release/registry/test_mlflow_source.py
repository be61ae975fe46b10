"""A model of MLflow's registry is packaged as any other; what could run code is refused unless it is asked for."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from release.registry.mlflow_python import MlflowPython
from tailrace.cli.main import app
from tailrace.errors import RegistryError
from tailrace.release.registry.mlflow_source import MlflowModel, download, load

URI = "models:/fraud/3"


class Touches:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        """Return what its loading calls."""
        return Path.touch, (self._path,)


def logged(folder: Path, **flavors: dict[str, str]) -> MlflowModel:
    """Return a version whose files are in a folder."""
    return MlflowModel(URI, "", "", {}, str(folder), flavors)


def write_rows(path: Path) -> None:
    """Write rows with an outcome."""
    x = np.random.default_rng(1).normal(size=(300, 3))
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": (x[:, 0] > 0).astype(int)}).to_parquet(path)


@pytest.mark.parametrize("flavor", ["sklearn", "lightgbm"])
def test_pickle_is_not_loaded_unless_the_user_says_so(tmp_path: Path, flavor: str) -> None:
    """The refusal says why and what else can be done, and nothing of the pickle has run."""
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump(Touches(tmp_path / "ran"), file)
    key = "pickled_model" if flavor == "sklearn" else "data"
    model = logged(tmp_path, **{flavor: {key: "model.pkl", "serialization_format": "cloudpickle"}})
    with pytest.raises(RegistryError, match="it is a pickle, and loading one runs") as caught:
        load(model)
    assert "skops" in caught.value.next
    assert "--allow-pickle" in caught.value.next
    assert not (tmp_path / "ran").exists()
    load(model, allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_pickle_by_another_name_is_not_loaded(tmp_path: Path) -> None:
    """What is said to be a text of LightGBM's, a model of XGBoost's or a skops file is read as that alone."""
    for name in ("model.lgb", "model.ubj", "model.skops"):
        with (tmp_path / name).open("wb") as file:
            pickle.dump(Touches(tmp_path / "ran"), file)
    for model in (
        logged(tmp_path, lightgbm={"data": "model.lgb"}),
        logged(tmp_path, xgboost={"data": "model.ubj"}),
        logged(tmp_path, sklearn={"pickled_model": "model.skops", "skops_trusted_types": "pathlib.Path"}),
    ):
        with pytest.raises(RegistryError, match="cannot be read"):
            load(model)
    assert not (tmp_path / "ran").exists()


def test_skops_file_of_types_that_are_not_known_is_refused(tmp_path: Path) -> None:
    """The types are named; what the logged model itself says of whom to trust is worth nothing."""
    io = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(1).normal(size=(50, 2))
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    io.dump(model, tmp_path / "model.skops")
    said = {"sklearn": {"pickled_model": "model.skops"}}
    assert (load(logged(tmp_path, **said)).predict(x) == model.predict(x)).all()
    io.dump({"model": model, "odd": MlflowModel}, tmp_path / "model.skops")
    with pytest.raises(RegistryError, match=r"types that are not trusted: .*MlflowModel"):
        load(logged(tmp_path, **said))
    assert load(logged(tmp_path, **said), allow_pickle=True)["odd"] is MlflowModel


def test_file_that_promises_more_than_it_holds_is_refused_by_its_flavour(tmp_path: Path) -> None:
    """Whatever its name: trees whose numbers lead elsewhere, of each framework, do not reach it."""
    import lightgbm
    import xgboost

    x = np.random.default_rng(1).normal(size=(90, 2))
    y = x[:, 0] > 0
    light = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, min_child_samples=5).fit(x, y)
    text = light.booster_.model_to_string()
    trees = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, y), 2)
    forms = {"lightgbm": text.encode(), "xgboost": trees.save_raw("json")}
    assert b'"split_indices":[0' in forms["xgboost"]
    bad = {
        "lightgbm": text.replace("split_feature=0", "split_feature=9", 1).encode(),
        "xgboost": forms["xgboost"].replace(b'"split_indices":[0', b'"split_indices":[99999', 1),
    }
    for flavor, content in forms.items():
        for name in ("model", "model.bin") if flavor == "xgboost" else ("model.bin", "model.onnx"):
            (tmp_path / name).write_bytes(content)
            assert load(logged(tmp_path, **{flavor: {"data": name}})) is not None
            (tmp_path / name).write_bytes(bad[flavor])
            with pytest.raises(RegistryError, match="cannot be read"):
                load(logged(tmp_path, **{flavor: {"data": name}}))
    (tmp_path / "model").write_bytes(b"\x08\x08")
    with pytest.raises(RegistryError, match=r"no ONNX file|no graph"):
        load(logged(tmp_path, onnx={"data": "model"}))


def test_trees_within_a_skops_file_are_held_to_what_they_promise(tmp_path: Path) -> None:
    """LightGBM's wrapper restores itself from a text: one whose numbers lead elsewhere is refused before that."""
    io = pytest.importorskip("skops.io")
    import lightgbm

    x = np.random.default_rng(1).normal(size=(90, 2))
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, min_child_samples=5).fit(x, x[:, 0] > 0)
    said = {"lightgbm": {"data": "model.skops"}}
    content = io.dumps(model)
    (tmp_path / "model.skops").write_bytes(content)
    assert (load(logged(tmp_path, **said)).predict(x) == model.predict(x)).all()
    with (
        zipfile.ZipFile(BytesIO(content)) as good,
        zipfile.ZipFile(tmp_path / "model.skops", "w") as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, good.read(name).replace(b"split_feature=0", b"split_feature=9"))
    with pytest.raises(RegistryError, match="a feature"):
        load(logged(tmp_path, **said))


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python that MLflow lives in imports none of them: neither MLflow itself nor what the script needs."""
    for name in ("mlflow", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="No module named 'mlflow'"):
        download(URI, tmp_path, python=sys.executable)
    assert not (tmp_path / "ran").exists()


def test_tracking_uri_stands_in_no_command(tmp_path: Path) -> None:
    """It may hold a password: it is handed over in the environment, which other users cannot read."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "given $*" > "$(dirname "$0")/told"\n'
                      'echo "set $MLFLOW_TRACKING_URI" >> "$(dirname "$0")/told"\nexit 1\n')  # fmt: skip
    python.chmod(0o755)
    with pytest.raises(RegistryError, match="MLflow does not give it"):
        download(URI, tmp_path, python=str(python), tracking_uri="https://me:secret@mlflow.example")
    given, _, rest = (tmp_path / "told").read_text().partition("\nset ")
    assert "secret" not in given
    assert rest.strip() == "https://me:secret@mlflow.example"


def test_login_in_the_option_is_warned_of(tmp_path: Path) -> None:
    """It says which variable takes it instead; one that came from there is not warned of."""
    command = ["models", "import", "nothing", "--registry", str(tmp_path / "r"), "--data", "rows.parquet"]
    uri = "https://me:secret@mlflow.example"
    warned = CliRunner().invoke(app, [*command, "--tracking-uri", uri])
    assert "set MLFLOW_TRACKING_URI" in warned.stderr
    assert "secret" not in warned.output
    quiet = CliRunner().invoke(app, command, env={"MLFLOW_TRACKING_URI": uri})
    assert "set MLFLOW_TRACKING_URI" not in quiet.stderr


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/hostname", "absent.onnx", "", "link.onnx"])
def test_file_outside_the_model_is_refused(tmp_path: Path, name: str) -> None:
    """A flavour names a file of the model, and no other of this machine's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.onnx").write_bytes(b"?")
    (folder / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    with pytest.raises(RegistryError, match="is not among its files"):
        load(logged(folder, onnx={"data": name}))


def test_flavour_that_cannot_be_packaged_is_told(tmp_path: Path) -> None:
    """It says as what the model was logged, and as what it could be."""
    with pytest.raises(RegistryError, match="logged as python_function, tensorflow") as caught:
        load(logged(tmp_path, tensorflow={}, python_function={}))
    assert "onnx, lightgbm, xgboost, sklearn" in caught.value.next


@pytest.mark.parametrize(
    "uri", ["models:/fraud", "runs:/1/model", "models:/a/b/3", "models:/fraud@", "fraud@1", "models:/@x"]
)
def test_uri_that_names_no_version_is_refused(tmp_path: Path, uri: str) -> None:
    """A version is named by number or alias."""
    with pytest.raises(RegistryError, match="names no version"):
        download(uri, tmp_path, python="python")


def test_python_without_mlflow_is_told(tmp_path: Path) -> None:
    """The error says which environment is needed."""
    for python in ("/bin/false", str(tmp_path / "absent")):
        with pytest.raises(RegistryError, match="MLflow") as caught:
            download(URI, tmp_path, python=python)
        assert "--python" in caught.value.next


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_models_of_a_real_mlflow_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From MLflow's registry in SQLite: by alias and number, each kind, with its metrics; a pickle if asked."""
    rows = tmp_path / "rows.parquet"
    write_rows(rows)
    mlflow = MlflowPython(tmp_path, rows)
    monkeypatch.setenv("TAILRACE_REGISTRY", str(tmp_path / "registry"))
    words = ("--tracking-uri", mlflow.tracking_uri, "--python", mlflow.path, "--data", str(rows), "--target", "y")

    def run(*command: str) -> Any:
        done = CliRunner().invoke(app, ["models", *command, "--json"], catch_exceptions=True)
        if done.exception is not None:
            raise done.exception
        return json.loads(done.output)

    for name in ("lightgbm-class", "xgboost", "xgboost-class", "sklearn"):
        assert run("import", f"models:/{name}@champion", *words)["number"] == 1
        shown = run("show", f"{name}@1")
        assert shown["lineage"]["source"].startswith(f"models:/{name}/1, run ")
        assert shown["metrics"]["mlflow.auc"] == 0.75
        assert "mlflow.never" not in shown["metrics"]
        assert shown["metrics"]["roc_auc"] > 0.95
    assert run("import", "models:/lightgbm@champion", *words)["source"].startswith("models:/lightgbm/2, ")
    assert run("import", "models:/lightgbm@challenger", *words, "--name", "light")["source"].startswith(
        "models:/lightgbm/1, "
    )
    assert run("import", "models:/lightgbm/1", *words, "--alias", "old")["number"] == 2
    with pytest.raises(RegistryError, match="it is a pickle"):
        run("import", "models:/pickled@champion", *words)
    assert run("import", "models:/pickled@champion", *words, "--allow-pickle")["number"] == 1
    with pytest.raises(RegistryError, match="alias absent not found"):
        run("import", "models:/lightgbm@absent", *words)
