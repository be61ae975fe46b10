"""Disks for a log, mounted for a test: one that is soon full or cannot be written, and one that can be made to hang."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MNT_DETACH: Final = 2
FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878
_libc: Final = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A disk in memory at a path. Skips the test where none may be mounted."""

    def __init__(self, path: Path, size_bytes: int, *, is_read_only: bool = False) -> None:
        path.mkdir()
        self.path = path
        self._filler = path / "filler"
        self._size_bytes = size_bytes
        self._mount(MS_RDONLY if is_read_only else 0)

    def fill(self) -> None:
        """Leave no room."""
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4_096)):
                pass

    def clear(self) -> None:
        """Give the room back."""
        self._filler.unlink()

    def allow_writing(self) -> None:
        """Make it one that can be written."""
        self._mount(MS_REMOUNT)

    def close(self) -> None:
        """Take it away."""
        _libc.umount2(os.fsencode(self.path), MNT_DETACH)

    def _mount(self, flags: int) -> None:
        if _libc.mount(b"none", os.fsencode(self.path), b"tmpfs", flags, f"size={self._size_bytes}".encode()):
            pytest.skip(f"no disk can be mounted here: {os.strerror(ctypes.get_errno())}")


class HangingDisk:
    """A disk in a file, which takes nothing while it is frozen: who writes waits. Skips the test where none can be."""

    def __init__(self, path: Path, image: Path) -> None:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no disk can be made here: mkfs.ext4 is missing")
        path.mkdir()
        self.path = path
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        mounted = subprocess.run(
            ["mount", "-o", "loop", str(image), str(path)], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr}")

    def freeze(self) -> None:
        """Take nothing any more."""
        self._tell(FIFREEZE)

    def thaw(self) -> None:
        """Take what waits, and what comes."""
        self._tell(FITHAW)

    def close(self) -> None:
        """Take it away."""
        with suppress(OSError):
            self.thaw()
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)  # a process that ends may hold it still

    def _tell(self, request: int) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, request, 0)
        finally:
            os.close(descriptor)
