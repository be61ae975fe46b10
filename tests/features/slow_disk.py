"""A slow disk: a folder whose one file is read through FUSE, each page that is not in memory after a pause.

It speaks the kernel's protocol itself (include/uapi/linux/fuse.h), so that only root and /dev/fuse are needed. It runs
as a process of its own, `python slow_disk.py FOLDER`, since a fault keeps a thread of the process that reads: commands
come on its standard input, "pause MILLISECONDS" and "forget" (all pages), and each is answered with how many reads it
has served.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

DEVICE: Final = "/dev/fuse"
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 36, 42,
)  # fmt: skip
NOTIFY_INVAL_INODE: Final = 2
ROOT_ID, FILE_ID = 1, 2
MS_RDONLY: Final = 1
MNT_DETACH: Final = 2
KEPT_S: Final = 3_600
"""How long the kernel may trust what it was told of a file: longer than a test."""
KEEP_CACHE: Final = 1 << 1
REQUEST: Final = struct.Struct("<IIQQIIII")
"""Of a request: length, opcode, unique, node, uid, gid, pid, padding."""
ANSWER: Final = struct.Struct("<IiQ")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class SlowDisk:
    """Shows `file` in `folder`, under its name, read-only; as slow as it is told to be."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.path = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.refusal = self._process.stdout.readline().decode().strip()
        """Why it cannot be had here; empty where it stands."""

    def pause(self, milliseconds: int) -> int:
        """Let each read take this long from now on; return how many have been served."""
        return self._tell(f"pause {milliseconds}")

    def forget(self) -> int:
        """Take every page out of memory, mapped or not; return how many reads have been served."""
        return self._tell("forget")

    def close(self) -> None:
        """Take it away. What maps the file must be closed before: a page that never comes kills who waits for it."""
        _libc.umount2(os.fsencode(self.path), MNT_DETACH)
        self._process.kill()
        self._process.communicate()

    def _tell(self, command: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class _Server:
    """Answers the kernel."""

    def __init__(self, folder: str, file: str) -> None:
        self._name = os.path.basename(file).encode()
        self._file = os.open(file, os.O_RDONLY)
        self._device = os.open(DEVICE, os.O_RDWR)
        self._pause_s = 0.0
        self._reads = 0
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,max_read=131072"
        if _libc.mount(b"slow", os.fsencode(folder), b"fuse", MS_RDONLY, options.encode()):
            raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")

    def run(self) -> None:
        """Answer the kernel and whoever gives commands, until the folder is unmounted."""
        queue = select.poll()
        queue.register(self._device, select.POLLIN)
        queue.register(0, select.POLLIN)
        while True:
            for descriptor, _ in queue.poll():
                if descriptor == 0:
                    self._obey(os.read(0, 100).decode().split())
                    continue
                try:
                    message = os.read(self._device, 1 << 18)
                except OSError as error:
                    if error.errno == errno.ENODEV:  # unmounted
                        return
                    if error.errno not in (errno.ENOENT, errno.EINTR):  # whoever asked no longer waits
                        raise
                else:
                    self._answer(message)

    def _obey(self, command: list[str]) -> None:
        if not command:  # whoever gave commands is gone
            sys.exit()
        if command[0] == "pause":
            self._pause_s = int(command[1]) / 1e3
            self._confirm()
        else:  # on a thread: it waits for pages that are being read, which are this one's to give
            threading.Thread(target=self._forget, daemon=True).start()

    def _forget(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # nobody has asked for the file yet: it has no page
            self._write(0, struct.pack("<Qqq", FILE_ID, 0, 0), NOTIFY_INVAL_INODE)
        self._confirm()

    def _confirm(self) -> None:
        os.write(1, b"%d\n" % self._reads)

    def _answer(self, message: bytes) -> None:
        _, opcode, unique, node, *_ = REQUEST.unpack_from(message)
        body = message[REQUEST.size :]
        if opcode == INIT:
            major, minor, readahead, _ = struct.unpack_from("<IIII", body)
            self._write(unique, struct.pack("<IIIIHHI", major, min(minor, 31), readahead, 0, 8, 8, 4096) + bytes(40))
        elif opcode == LOOKUP and body.rstrip(b"\0") == self._name:
            self._write(unique, struct.pack("<QQQQII", FILE_ID, 0, KEPT_S, KEPT_S, 0, 0) + self._attributes(FILE_ID))
        elif opcode == GETATTR:
            self._write(unique, struct.pack("<QII", KEPT_S, 0, 0) + self._attributes(node))
        elif opcode == OPEN:
            self._write(unique, struct.pack("<QII", 0, KEEP_CACHE, 0))
        elif opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._reads += 1
            time.sleep(self._pause_s)
            self._write(unique, os.pread(self._file, size, offset))
        elif opcode == STATFS:
            self._write(unique, bytes(80))
        elif opcode in (RELEASE, FLUSH):
            self._write(unique, b"")
        elif opcode not in (FORGET, BATCH_FORGET, INTERRUPT):
            self._write(unique, b"", -(errno.ENOENT if opcode == LOOKUP else errno.ENOSYS))

    def _attributes(self, node: int) -> bytes:
        size = os.fstat(self._file).st_size
        mode = stat.S_IFDIR | 0o755 if node == ROOT_ID else stat.S_IFREG | 0o444
        return struct.pack(
            "<QQQQQQIIIIIIIIII", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )

    def _write(self, unique: int, body: bytes, error: int = 0) -> None:
        os.write(self._device, ANSWER.pack(ANSWER.size + len(body), error, unique) + body)


def main(folder: str, file: str) -> None:
    """Serve; say first why it cannot be done, or nothing."""
    try:
        server = _Server(folder, file)
    except OSError as error:
        os.write(1, f"no slow disk here: {error}\n".encode())
        return
    os.write(1, b"\n")
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
