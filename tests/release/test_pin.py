"""A release is a copy: what becomes of the files it was made from is nothing to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.model_graphs import linear
from tailrace.codecs.proto_lock import Lock, lock_path, read_lock, write_lock
from tailrace.errors import ModelPackageError, SetupError
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import MANIFEST_FILE
from tailrace.pipeline import Pipeline
from tailrace.release.exchange import replace_directory
from tailrace.release.pin import let_go, pin, pin_again
from tailrace.release.pinned import Pin
from tailrace.release.settle import settle, with_pinned_models
from tailrace.release.shelf import MODELS, SERVERS, SOURCES
from tailrace.server.declared import load_all

WEIGHTS = {"amount": 0.001}
PIPELINE = """
from beside import BUDGET
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.Model("pay"), budget=BUDGET)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline's file with a module and a model beside it."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("50ms")\n')
    linear(folder, "pay", WEIGHTS)
    (folder / "models").mkdir()
    (folder / "pay").rename(folder / "models" / "pay")
    return folder / "pipeline.py"


def load(pinned: Pin) -> list[Pipeline]:
    """Return the pipelines of a pin, as a new process would load them."""
    for name in [name for name, module in sys.modules.items() if name == "beside" or "pipeline_" in name]:
        del sys.modules[name]
    return load_all(pinned)


def test_release_keeps_sources_and_models(file: Path, tmp_path: Path) -> None:
    """Once it is settled, changed, broken and removed files change nothing of it, nor of its id."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        release = settle(pinned, load(pinned))
        file.write_text("nonsense(")
        (file.parent / "beside.py").write_text("nonsense(")
        shutil.rmtree(file.parent / "models")
        (pipeline,) = load(pinned)
        assert pipeline.base_dir == file.parent
        assert settle(pinned, [pipeline]) == release
        (model,) = release.models
        assert load_model(str(with_pinned_models(pipeline, release).model.path)).version == model.version
        assert not os.access(Path(model.copy) / MANIFEST_FILE, os.W_OK) or os.geteuid() == 0


def test_same_files_give_the_same_id_wherever_they_are(file: Path, tmp_path: Path) -> None:
    """The id tells of the content alone; another threshold, model or module gives another."""
    ids = []
    other = tmp_path / "other"
    shutil.copytree(file.parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (file, other / "pipeline.py"):
        with pin([str(path)], str(tmp_path / path.parent.name / "kept")) as pinned:
            ids.append(settle(pinned, load(pinned)).id)
    (file.parent / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("60ms")\n')
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        ids.append(settle(pinned, load(pinned)).id)
        linear(tmp_path, "pay", {"amount": 0.002})
        shutil.rmtree(file.parent / "models" / "pay")
        (tmp_path / "pay").rename(file.parent / "models" / "pay")
        second = pin_again(pinned)
        ids.append(settle(second, load(second)).id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_numbers_of_messages_are_the_releases_own(file: Path, tmp_path: Path) -> None:
    """A worker that comes back reads as its siblings do, whatever was exported meanwhile; and a lock is no module."""
    kept = lock_path(file.parent, "pay")
    other = tmp_path / "other"
    shutil.copytree(file.parent, other, ignore=shutil.ignore_patterns("__pycache__", "pipeline.py", "beside.py"))
    (other / "second.py").write_text(PIPELINE.replace("beside", "pay").replace('"pay"', '"two"'))
    (other / "pay.py").write_text((file.parent / "beside.py").read_text())
    with pin([str(file), str(other / "second.py")], str(tmp_path / "kept")) as pinned:
        without = pinned.copy_of(str(file))
    write_lock(Lock({}), kept)
    with pin([str(file), str(other / "second.py")], str(tmp_path / "kept")) as pinned:
        assert pinned.copy_of(str(file)) != without
        kept.write_text("nonsense")
        first, second = load(pinned)
        assert read_lock(lock_path(first.sources_dir, "pay")) == Lock({})
        assert read_lock(lock_path(second.sources_dir, "two")) is None


def test_copies_go_when_no_server_holds_them(file: Path, tmp_path: Path) -> None:
    """A living server's release stays, however many others begin; a dead one's goes with the next start."""
    root = tmp_path / "kept"

    def kept() -> list[int]:
        return [len(list((root / kind).iterdir())) for kind in (SOURCES, MODELS, SERVERS)]

    with pin([str(file)], str(root)) as first:
        settle(first, load(first))
        (file.parent / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("60ms")\n')
        with pin([str(file)], str(root)) as second:
            settle(second, load(second))
            assert kept() == [2, 1, 2]
    with pin([str(file)], str(root)):
        assert kept() == [1, 0, 1]


def test_package_has_what_it_had(file: Path, tmp_path: Path) -> None:
    """A package that looks for its own parts finds those of the release, and its data where it was."""
    package = file.parent / "parts"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import importlib, pkgutil\nfrom importlib.resources import files\nfrom pathlib import Path\n"
        "NAMES = sorted(each.name for each in pkgutil.iter_modules(__path__))\n"
        "FOUND = [importlib.import_module(f'parts.{name}').VALUE for name in NAMES]\n"
        "TEXT = files('parts').joinpath('a.txt').read_text() + Path(__file__).with_name('a.txt').read_text()\n"
    )
    (package / "one.py").write_text("VALUE = 1\n")
    (package / "a.txt").write_text("a")
    file.write_text("import parts\nassert (parts.NAMES, parts.FOUND, parts.TEXT) == (['one'], [1], 'aa')\n" + PIPELINE)
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        load(pinned)
        (package / "two.py").write_text("raise RuntimeError('not of this release')\n")
        (package / "one.py").write_text("VALUE = 2\n")
        for name in [name for name in sys.modules if name.partition(".")[0] == "parts"]:
            del sys.modules[name]
        load(pinned)


@pytest.mark.parametrize("name", ["beside.py", "beside/__init__.py"])
def test_two_modules_of_one_name_are_refused(name: str, file: Path, tmp_path: Path) -> None:
    """One process has one module of a name: of equal ones too, which find other data beside their files."""
    other = tmp_path / "other"
    shutil.copytree(file.parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    (other / name).parent.mkdir(exist_ok=True)
    (other / "beside.py").rename(other / name)
    files = [str(file), str(other / "pipeline.py")]
    with pytest.raises(SetupError, match="a module 'beside'") as caught, pin(files, str(tmp_path / "kept")):
        pass
    assert caught.value.where == files[1]
    (other / name).rename(other / "aside.py")
    (other / "pipeline.py").write_text(PIPELINE.replace("from beside", "from aside"))
    with pin(files, str(tmp_path / "kept")) as pinned:
        assert len(pinned.folders) == 2


def test_copies_are_as_readable_as_the_originals(file: Path, tmp_path: Path) -> None:
    """A module that only its owner may read is copied so, and nobody may write a copy."""
    (file.parent / "beside.py").chmod(0o600)
    file.chmod(0o644)
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        copy = Path(pinned.copy_of(str(file)))
        assert (copy / "beside.py").stat().st_mode & 0o777 == 0o400
        assert (copy / "pipeline.py").stat().st_mode & 0o777 == 0o444
        assert Path(pinned.root).stat().st_mode & 0o777 == 0o700


def test_nothing_is_removed_beside_a_server_of_another_version(file: Path, tmp_path: Path) -> None:
    """What a living server holds and this version cannot read is left alone."""
    root = tmp_path / "kept"
    with pin([str(file)], str(root)) as first:
        kept = first.copy_of(str(file))
        first.pin_file.write_text('{"held": "in another way"}')
        (file.parent / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("60ms")\n')
        with pin([str(file)], str(root)):
            assert Path(kept).exists()
    with pin([str(file)], str(root)):
        assert not Path(kept).exists()


def test_numbers_of_releases_are_given_once(file: Path, tmp_path: Path) -> None:
    """A second release that was given up leaves nothing that a third could be taken for, nor copies."""
    root = tmp_path / "kept"
    with pin([str(file)], str(root)) as first:
        ids = [settle(first, load(first)).id]
        (file.parent / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("60ms")\n')
        second = pin_again(first)
        ids.append(settle(second, load(second)).id)
        let_go(second)
        assert not Path(second.copy_of(str(file))).exists()
        (file.parent / "beside.py").write_text('import tailrace as tr\nBUDGET = tr.Budget("70ms")\n')
        third = pin_again(first)
        ids.append(settle(third, load(third)).id)
        assert (second.number, third.number) == (2, 3)
        assert len(set(ids)) == 3
        assert Path(first.copy_of(str(file))).exists()


def test_server_that_was_killed_holds_nothing(file: Path, tmp_path: Path) -> None:
    """What a process held is free when it is gone, whatever it left."""
    root = tmp_path / "kept"
    script = (
        "import os, signal, sys\nfrom tailrace.release.pin import pin\n"
        "with pin([sys.argv[1]], sys.argv[2]):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file), str(root)], check=False, timeout=60)
    assert done.returncode == -9
    assert len(list((root / SERVERS).iterdir())) == 1
    with pin([str(file)], str(root)):
        assert len(list((root / SERVERS).iterdir())) == 1


def test_directory_that_cannot_be_written_is_told(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named one is an error; the usual one gives way to the temporary directory, and that is said."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(SetupError, match="releases cannot be kept there"), pin([str(file)], str(blocked / "kept")):
        pass
    (file.parent / ".tailrace").write_text("")  # a file where the directory would be: root may write anywhere
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told: list[str] = []
    with pin([str(file)], None, warn=told.append) as pinned:
        assert pinned.root.startswith(str(tmp_path / "tailrace-"))
        assert settle(pinned, load(pinned)).models
    assert len(told) == 1
    assert str(file.parent) in told[0]


def test_disk_that_is_full_is_told(file: Path, tmp_path: Path) -> None:
    """The error says where and what next, and nothing half copied is left."""
    root = tmp_path / "kept"
    script = (
        "import resource, sys\nfrom tailrace.errors import SetupError\nfrom tailrace.release.pin import pin\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    with pin([sys.argv[1]], sys.argv[2]):\n        pass\n"
        "except SetupError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(file), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(f"{root}: the release cannot be kept: File too large\n")
    assert "--releases DIR" in done.stdout
    assert not list((root / SOURCES).iterdir())


def test_releases_are_beside_the_store(file: Path, tmp_path: Path) -> None:
    """Of a store of files that was named; else beside the file."""
    with pin([str(file)], None, f"lmdb:{tmp_path}/data/store") as pinned:
        assert pinned.root == str(tmp_path / "data" / "releases")
    with pin([str(file)], None, "redis://localhost") as pinned:
        assert pinned.root == str(file.parent / ".tailrace" / "releases")


def test_model_that_is_not_there_or_cut_is_refused(file: Path, tmp_path: Path) -> None:
    """The error names the directory that was declared, and the release stays unsettled."""
    models = file.parent / "models" / "pay"
    graph = models / "model.onnx"
    whole = graph.read_bytes()
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        pipelines = load(pinned)
        graph.write_bytes(whole[:-1])
        with pytest.raises(ModelPackageError, match="cut short") as caught:
            settle(pinned, pipelines)
        assert caught.value.where == str(graph)
        graph.unlink()
        with pytest.raises(ModelPackageError, match=r"no model\.onnx"):
            settle(pinned, pipelines)
        graph.write_bytes(whole)
        assert settle(pinned, pipelines).models


def test_model_replaced_while_it_is_copied_is_one_or_the_other(file: Path, tmp_path: Path) -> None:
    """Readers of a directory that is packaged again and again find a whole model each time."""
    directory = file.parent / "models" / "pay"
    copies = [tmp_path / "a", tmp_path / "b"]
    for copy, weight in zip(copies, (0.002, 0.003), strict=True):
        copy.mkdir()
        linear(copy, "pay", {"amount": weight})
    stop = threading.Event()
    replaced: list[int] = []

    def replace() -> None:
        while not stop.is_set():
            turn = len(replaced)
            draft = tmp_path / f"draft-{turn}"
            shutil.copytree(copies[turn % 2] / "pay", draft)
            replace_directory(draft, directory)
            replaced.append(turn)
            time.sleep(0.005)  # a reader needs to come to an end once

    thread = threading.Thread(target=replace)
    versions, reads = set(), 0
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        pipelines = load(pinned)
        thread.start()
        try:
            # On a busy machine all readers may be done before the other thread has its turn.
            while reads < 40 or (len(replaced) < 4 and thread.is_alive()):
                (model,) = settle(pinned, pipelines).models
                assert load_model(model.copy).version == model.version
                versions |= {model.version, load_model(directory).version}
                pinned.release_file.unlink()
                reads += 1
        finally:
            stop.set()
            thread.join()
    assert len(versions) >= 2
