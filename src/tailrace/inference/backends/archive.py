"""What a zip archive promises, held against what it holds, before anything of it is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib
from math import prod
from typing import Final

import numpy as np

GROWTH_MAX: Final = 4
"""How much larger than the archive what is in it may be: who writes models compresses little, or nothing."""
SPARE_BYTES: Final = 1 << 20
UNPACKED_BYTES_MAX: Final = 16 << 30
_LINK_BITS: Final = 0o170000
_PLAIN: Final = (0, 0o100000, 0o040000)
"""A file of no system's, a file, a folder."""
_WAYS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARRAYS: Final = (".npy", ".npz")
UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)
"""What reading an archive raises that is none, or was damaged."""


def check_members(infos: list[zipfile.ZipInfo], size_bytes: int) -> None:
    """Raise ValueError for members that would unpack upwards, be links, stand twice, or grow beyond bounds.

    size_bytes: of the archive.
    """
    bytes_max = min(GROWTH_MAX * size_bytes + SPARE_BYTES, UNPACKED_BYTES_MAX)
    if sum(info.file_size for info in infos) > bytes_max:
        raise ValueError(f"it unpacks to more than the {bytes_max} bytes that an archive of {size_bytes} may")
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or name in seen:
            raise ValueError(f"it holds {name!r}, which is above it, or twice in it")
        if info.external_attr >> 16 & _LINK_BITS not in _PLAIN:
            raise ValueError(f"{name!r} is a link")
        if info.compress_type not in _WAYS:
            raise ValueError(f"{name!r} is compressed in another way than deflate")
        seen.add(name)


def check_arrays(content: bytes) -> None:
    """Raise ValueError for an archive whose members are not what they should be, or whose arrays promise more.

    NumPy allocates what the header of an array says, whatever follows it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_members(archive.infolist(), len(content))
            for info in archive.infolist():
                if info.filename.endswith(_ARRAYS):
                    _check_array(info.filename, archive.read(info))
    except UNREADABLE as error:
        raise ValueError(f"it is no archive: {error}") from error


def _check_array(name: str, content: bytes) -> None:
    if name.endswith(".npz"):
        check_arrays(content)
        return
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except Exception as error:  # a header is a literal of Python's: reading one raises whatever it meets
        raise ValueError(f"{name} has no header of an array: {type(error).__name__}: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, which are pickled")
    if prod(shape) * dtype.itemsize > len(content):
        raise ValueError(f"{name} promises an array of {prod(shape) * dtype.itemsize} bytes, and has {len(content)}")
