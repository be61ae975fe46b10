"""The build hook of the wheel: compiles the kernels of trees and of windows where there is a C compiler.

With one, the wheel is for this platform and any Python 3; without one, or with TAILRACE_NO_COMPILE=1, it is pure, and
trees are computed by ONNX Runtime, windows by NumPy. An editable installation gets the libraries beside their sources.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernel(NamedTuple):
    """A library that is compiled. instead: what happens where it is not."""

    source: Path
    library: Path
    instead: str


SRC = Path("src/tailrace")
KERNELS = (
    Kernel(
        SRC / "inference/backends/bitvector.c",
        SRC / "inference/backends/libbitvector.so",
        "ONNX Runtime will compute trees",
    ),
    Kernel(
        SRC / "inference/backends/forest.c",
        SRC / "inference/backends/libforest.so",
        "ONNX Runtime will compute forests",
    ),
    Kernel(SRC / "features/windows.c", SRC / "features/libwindows.so", "NumPy will compute windows"),
)
FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared", "-fvisibility=hidden")
# A copy for each kind of processor needs a recent GCC or Clang, and a C library that can choose at load.
VARIANTS = (("-DTAILRACE_CLONES",), ())
TIMEOUT_S = 120


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the compiled libraries to the wheel, best effort."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; on success mark the wheel as this platform's."""
        root = Path(self.root)
        compiled = []
        for kernel in KERNELS:
            reason = compile_library(root / kernel.source, root / kernel.library)
            if reason:
                self.app.display_warning(f"{kernel.source.name} is not compiled, {kernel.instead}: {reason}")
            else:
                compiled.append(kernel.library.as_posix())
        if not compiled:
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # it knows nothing of Python, so it fits every version
        build_data["artifacts"].extend(compiled)


def compile_library(source: Path, library: Path) -> str:
    """Compile the library and put it in its place at once; return why it was not, or nothing."""
    if os.environ.get("TAILRACE_NO_COMPILE", "") not in {"", "0"}:
        return "TAILRACE_NO_COMPILE is set"
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        return f"there is no C compiler {command[0]!r} (Debian: apt-get install gcc libc6-dev)"
    reason = ""
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".compile-") as folder:
        draft = Path(folder) / library.name
        for variant in VARIANTS:
            arguments = [*command, *FLAGS, *variant, "-o", str(draft), str(source), "-lm"]
            try:
                done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if done.returncode == 0 and draft.is_file():
                draft.replace(library)
                return ""
            reason = (done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1]
    return reason


if __name__ == "__main__":  # by hand, after a kernel was changed in an editable installation
    root = Path(__file__).parent
    reasons = [compile_library(root / kernel.source, root / kernel.library) for kernel in KERNELS]
    sys.exit("\n".join(dict.fromkeys(filter(None, reasons))) or None)
