from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "tailrace/inference/backends/libbitvector.so",
    "tailrace/inference/backends/libforest.so",
    "tailrace/features/libwindows.so",
)
SOURCES = ("inference/backends/bitvector.c", "inference/backends/forest.c", "features/windows.c")

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def build_wheel(tmp_path: Path) -> Callable[..., Path]:
    """Return what builds a wheel of a copy of the sources, with these settings of the environment."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "docs" / "runbooks", source / "docs" / "runbooks")

    def build(**settings: str) -> Path:
        out = tmp_path / "dist"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        [wheel] = out.glob("*.whl")
        return wheel

    return build


def test_wheel_with_a_compiler_holds_the_libraries(build_wheel: Callable[..., Path], tmp_path: Path) -> None:
    """It is of this platform and of every Python 3, and the libraries in it are ones that open."""
    wheel = build_wheel(TAILRACE_NO_COMPILE="0")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path, LIBRARIES)
    program = "import sys, pathlib; from tailrace.inference.backends import kernel; from tailrace.features import \
        window_kernel; *trees, windows = map(pathlib.Path, sys.argv[1:]); [kernel.open_library(path) for path in \
        trees]; window_kernel.open_library(windows); print('opened')"
    libraries = [str(tmp_path / library) for library in LIBRARIES]
    done = subprocess.run([sys.executable, "-c", program, *libraries], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "opened"


@pytest.mark.parametrize("settings", [{"TAILRACE_NO_COMPILE": "1"}, {"CC": "no-such-compiler"}, {"CC": "false"}])
def test_wheel_without_a_compiler_is_pure(build_wheel: Callable[..., Path], settings: dict[str, str]) -> None:
    """No compiler, one that fails, or none wanted: the wheel is for any platform, and holds no library."""
    wheel = build_wheel(**{"TAILRACE_NO_COMPILE": "", **settings})
    assert wheel.name.endswith("-py3-none-any.whl")
    with ZipFile(wheel) as archive:
        assert not {*LIBRARIES} & {*archive.namelist()}
        assert {"tailrace/inference/loading.py", "tailrace/runbooks/latency.md"} <= {*archive.namelist()}


def test_kernel_that_does_not_compile_leaves_the_others(build_wheel: Callable[..., Path], tmp_path: Path) -> None:
    """A compiler that refuses one source: the wheel holds the other libraries, and is this platform's."""
    (tmp_path / "source/src/tailrace/inference/backends/bitvector.c").write_text("#error no\n")
    wheel = build_wheel(TAILRACE_NO_COMPILE="0")
    assert not wheel.name.endswith("-any.whl")
    with ZipFile(wheel) as archive:
        assert {*LIBRARIES} & {*archive.namelist()} == {*LIBRARIES[1:]}


@pytest.mark.parametrize("name", SOURCES)
def test_library_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    """The C is plain C99 under the strictest warnings, with and without copies for kinds of processors."""
    source = ROOT / "src/tailrace" / name
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O3", "-fPIC", "-shared"]
    command = ["cc", *flags, "-o", str(tmp_path / "plain.so"), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
