"""What `make` does to a machine: it installs servers without starting them, and what was edited anew."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
APT_GET = """#!/bin/sh
echo "$@" >>"$LOG"
test "$1" = update && exit 0
"$POLICY" nginx start; echo "policy: $?" >>"$LOG"
exit "$STATUS"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make makes it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose apt-get writes down what it is asked, and what it may start, and where we are root."""
    for name, text in (("apt-get", APT_GET), ("id", "#!/bin/sh\necho 0\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "probe.mk").write_text(f"include {ROOT / 'Makefile'}\nprobe:\n\t$(call need,nonesuch,nonesuch)\n")
    return tmp_path


def probe(folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Make what needs a program that is missing."""
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log"),
               "POLICY": str(folder / "policy"), "STATUS": str(status)}  # fmt: skip
    command = ["make", "-s", "-f", str(folder / "probe.mk"), f"POLICY={folder / 'policy'}", "probe"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def replace_program(folder: Path, name: str, text: str) -> None:
    """Put a program of this name before all others."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def install(folder: Path, status: int = 0) -> tuple[int, list[str]]:
    """Install a program that is missing; return make's exit code and what apt-get was asked and found."""
    done = probe(folder, status)
    assert done.stdout.splitlines() == ["installing nonesuch with apt-get (once)"]
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("status", [0, 7])
def test_install_starts_no_server(folder: Path, status: int) -> None:
    """While packages are installed nothing may be started, and afterwards, gone well or not, all is as it was."""
    code, told = install(folder, status)
    assert (code == 0) == (status == 0)
    assert told == ["update -qq", "install -qq -y --no-install-recommends nonesuch", "policy: 101"]
    assert not (folder / "policy").exists()


def test_install_keeps_the_policy_of_the_machine(folder: Path) -> None:
    """A policy that stands there is asked, and is still there afterwards."""
    (folder / "policy").write_text("#!/bin/sh\nexit 104\n")
    (folder / "policy").chmod(0o755)
    assert install(folder)[1][-1] == "policy: 104"
    assert (folder / "policy").read_text() == "#!/bin/sh\nexit 104\n"


def test_program_of_postgres_is_found_where_debian_keeps_it(folder: Path) -> None:
    """It is in no PATH, and is not installed again."""
    (folder / "postgresql" / "15" / "bin").mkdir(parents=True)
    replace_program(folder / "postgresql" / "15" / "bin", "nonesuch", "exit 0")
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}
    command = ["make", "-s", "-f", str(folder / "probe.mk"), f"POSTGRES={folder / 'postgresql'}", "probe"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert not done.stdout
    assert not (folder / "log").exists()


def test_install_without_root_says_what_is_missing(folder: Path) -> None:
    """Who is not root, and has no sudo that asks nothing, is told what to install; the target goes on."""
    replace_program(folder, "id", "echo 1000")
    replace_program(folder, "sudo", "exit 1")
    done = probe(folder)
    assert done.returncode == 0
    assert done.stderr == "nonesuch is missing, and only root can install it: apt-get install nonesuch\n"
    assert not (folder / "log").exists()


def test_install_without_root_uses_sudo_that_asks_nothing(folder: Path) -> None:
    """With such a sudo the program is installed, and by it."""
    replace_program(folder, "id", "echo 1000")
    replace_program(folder, "sudo", 'echo sudo >>"$LOG"; test "$1" = -n && shift; exec "$@"')
    code, told = install(folder)
    assert code == 0
    assert told[:3] == ["sudo", "sudo", "update -qq"]


def test_python_of_another_version_has_a_venv_of_its_own(tmp_path: Path) -> None:
    """`PYTHON=` names a version, pyenv's newest of it, or a program; without it the venv is .venv."""
    for patch in ("3.99.2", "3.99.10"):
        programs = tmp_path / "versions" / patch / "bin"
        programs.mkdir(parents=True)
        replace_program(programs, "python", "echo 3.99")
    environ = {**os.environ, "PYENV_ROOT": str(tmp_path)}

    def plan(*words: str) -> str:
        command = ["make", "-n", "check", "STAMP=absent", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    for named in ("3.99", "python3.99", str(programs / "python")):
        told = plan(f"PYTHON={named}")
        assert f"{programs / 'python'} -m venv .venv-3.99" in told
        assert ".venv-3.99/bin/ruff check" in told
    assert ".venv/bin/ruff check" in plan()


def test_python_that_is_not_here_is_told() -> None:
    """A version that nobody has ends with what to do, and makes no venv."""
    done = subprocess.run(["make", "check", "PYTHON=3.99"], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.returncode != 0
    assert "there is no Python 3.99 here" in done.stderr
    assert "PYTHON=/path/to/python" in done.stderr


def make_image(folder: Path, answers: str) -> subprocess.CompletedProcess[str]:
    """Make the image where only one builder answers, or none; nothing is built, what would be is printed."""
    for name in ("podman", "buildah", "docker"):
        replace_program(folder, name, f"exit {int(name != answers)}")
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["make", "image", *(["-n"] if answers else [])]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_image_without_a_builder_is_told(folder: Path) -> None:
    """Where podman, buildah and docker are not there, or do not answer, `make image` says so and fails."""
    done = make_image(folder, "")
    assert done.returncode != 0
    assert "no image builder answers: install podman or buildah, or start docker" in done.stderr


@pytest.mark.parametrize(
    ("builder", "form"), [("podman", "--format docker"), ("buildah", "--format docker"), ("docker", "")]
)
def test_image_is_built_by_the_builder_that_answers(folder: Path, builder: str, form: str) -> None:
    """The first one that answers builds, in the format that keeps the check of health."""
    told = " ".join(make_image(folder, builder).stdout.split())
    assert " ".join(f"{builder} build {form} --file Containerfile --tag 'tailrace' .".split()) in told


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """Return the folder that `make wheel` fills, in a copy of the sources and with the tests' own packages."""
    pytest.importorskip("auditwheel", reason="auditwheel is not installed")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "Makefile", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("src", "tools", "docs/runbooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    stamp, programs = tmp_path / "installed", Path(sys.executable).parent
    command = ["make", "-s", "-o", str(stamp), f"STAMP={stamp}", f"BIN={programs}", "wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "dist"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_wheels_have_tags_that_an_index_accepts(dist: Path) -> None:
    """One wheel holds the compiled kernels and is for manylinux; the other has none and is for any machine."""
    names = {path.name.rsplit("-", maxsplit=1)[1]: path for path in dist.iterdir()}
    (pure,) = (path for tag, path in names.items() if tag == "any.whl")
    (linux,) = (path for tag, path in names.items() if re.fullmatch(r"manylinux_2_\d+_\w+\.whl", tag))
    assert len(names) == 2
    assert "-py3-none-" in pure.name
    assert "-py3-none-" in linux.name
    for library in ("tailrace/inference/backends/libbitvector.so", "tailrace/features/libwindows.so"):
        assert library in ZipFile(linux).namelist()
        assert library not in ZipFile(pure).namelist()


@pytest.mark.parametrize(
    "edited",
    ["", "src/tailrace/inference/backends/bitvector.c", "src/tailrace/inference/backends/bitvector_block.h",
     "src/tailrace/inference/backends/forest_walk.h", "src/tailrace/features/windows.c", "hatch_build.py"],
)  # fmt: skip
def test_kernel_that_was_edited_is_compiled_anew(tmp_path: Path, edited: str) -> None:
    """An installation older than the kernel, its header or its hook is made again, and no other."""
    stamp = tmp_path / "installed"
    stamp.touch()
    command = ["make", "-n", f"STAMP={stamp}", *(["-W", edited] if edited else []), str(stamp)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ("pip install" in done.stdout) == bool(edited)
