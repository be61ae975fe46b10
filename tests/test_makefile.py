"""What `make` does to a machine: it installs servers without starting them, and what was edited anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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
    """Return a folder whose apt-get writes down what it is asked, and what it may start; its sudo is nothing."""
    for name, text in (("apt-get", APT_GET), ("sudo", '#!/bin/sh\nexec "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "probe.mk").write_text(f"include {ROOT / 'Makefile'}\nprobe:\n\t$(call need,nonesuch,nonesuch)\n")
    return tmp_path


def install(folder: Path, status: int = 0) -> tuple[int, list[str]]:
    """Install a program that is missing; return make's exit code and what apt-get was asked and found."""
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log"),
               "POLICY": str(folder / "policy"), "STATUS": str(status)}  # fmt: skip
    command = ["make", "-s", "-f", str(folder / "probe.mk"), f"POLICY={folder / 'policy'}", "probe"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
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


@pytest.mark.parametrize(
    "edited", ["", "src/tailrace/inference/bitvector.c", "src/tailrace/inference/bitvector_block.h", "hatch_build.py"]
)
def test_kernel_that_was_edited_is_compiled_anew(tmp_path: Path, edited: str) -> None:
    """An installation older than the kernel, its header or its hook is made again, and no other."""
    stamp = tmp_path / "installed"
    stamp.touch()
    command = ["make", "-n", f"STAMP={stamp}", *(["-W", edited] if edited else []), str(stamp)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ("pip install" in done.stdout) == bool(edited)
