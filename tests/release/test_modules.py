"""Which files belong to a release: what a file imports of its own folder, by name, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.errors import SetupError
from tailrace.release import modules
from tailrace.release.modules import find_modules

FILE = """
import os
import json
import rules.limits
from shapes import Payment
from lib import one
def late():
    import later
    from importlib import import_module
    return import_module("named"), import_module(".two", "extra"), later
"""
FOLDER = {
    "pipeline.py": FILE,
    "shapes.py": "from deep.below import x\n",
    "rules/__init__.py": "from . import other\n",
    "rules/limits.py": "import json\n",
    "rules/other.py": "",
    "rules/inner/more.py": "",
    "rules/data.json": "{}",
    "rules/.#limits.py": "an editor's",
    "extra/__init__.py": "",
    "extra/two.py": "",
    "rules/__pycache__/limits.cpython-311.pyc": "",
    "lib/one.py": "",
    "lib/two.py": "",
    "deep/below.py": "x = 1\n",
    "later.py": "",
    "named.py": "",
    "unused.py": "",
    "test_pipeline.py": "import pipeline\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files under a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_modules_are_those_that_the_file_imports(tmp_path: Path) -> None:
    """Imports inside functions count, a package comes whole, and what nobody imports stays out."""
    write(tmp_path, FOLDER)
    found = {str(path.relative_to(tmp_path)) for path in find_modules(tmp_path / "pipeline.py")}
    assert found == {
        "pipeline.py", "shapes.py", "rules/__init__.py", "rules/limits.py", "rules/other.py", "rules/inner/more.py",
        "lib/one.py", "deep/below.py", "later.py", "named.py",
        "extra/__init__.py", "extra/two.py",
    }  # fmt: skip


def test_file_that_cannot_be_parsed_is_found_all_the_same(tmp_path: Path) -> None:
    """Whoever runs it reports the line; the release is not the place for it."""
    write(tmp_path, {"pipeline.py": "import (\n"})
    assert find_modules(tmp_path / "pipeline.py") == [tmp_path / "pipeline.py"]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(SetupError, match="no such file") as caught:
        find_modules(tmp_path / "pipeline.py")
    assert caught.value.where == str(tmp_path / "pipeline.py")


def test_folder_that_holds_an_installation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of any number of files beside the pipeline's is no source code."""
    monkeypatch.setattr(modules, "FILES_MAX", 5)
    write(tmp_path, {"pipeline.py": "import big\n", "big/__init__.py": ""} | {f"big/m{n}.py": "" for n in range(5)})
    with pytest.raises(SetupError, match="over 5 files"):
        find_modules(tmp_path / "pipeline.py")


def test_package_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of a package's own modules import each other, its folders are listed once each."""
    walked: list[Path] = []
    walk = modules._package_files

    def counted(package: Path) -> Iterator[Path]:
        walked.append(package)
        return walk(package)

    monkeypatch.setattr(modules, "_package_files", counted)
    imports = "".join(f"from .m{n} import x{n}\nimport big.m{n}\n" for n in range(20))
    files = {f"big/m{n}.py": imports for n in range(20)}
    write(tmp_path, {"pipeline.py": "import big\n", "big/__init__.py": "", "big/inner/__init__.py": imports} | files)
    assert len(find_modules(tmp_path / "pipeline.py")) == 23
    assert walked == [tmp_path / "big", tmp_path / "big" / "inner"]


def test_numbers_of_messages_go_along(tmp_path: Path) -> None:
    """Those beside the file, whichever of its pipelines they are of; not those of a folder below."""
    (tmp_path / "below").mkdir()
    for name in ("pipeline.py", "fraud.proto.lock", "fraud.proto", "below/other.proto.lock"):
        (tmp_path / name).touch()
    assert find_modules(tmp_path / "pipeline.py") == [tmp_path / "fraud.proto.lock", tmp_path / "pipeline.py"]
