"""A program of `torch.export` in its archive, made harmless before PyTorch reads it.

PyTorch unpickles the sample inputs and some weights of such an archive, calls what a node names (`torch.hub.load` as
well as `torch.ops.aten.relu`), has SymPy evaluate what stands for a size, and runs guards that are Python. So an
archive is written anew from what a program needs: weights as bytes, nodes of PyTorch's own operators, sizes that are
sums and products. What holds anything else is refused, with the reason.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from math import prod
from typing import Any, Final

from tailrace.inference.backends.archive import UNREADABLE, check_members

_KEPT: Final = (
    "archive_format", "archive_version", "byteorder", ".data/version", "models/model.json",
    "data/weights/model_weights_config.json", "data/constants/model_constants_config.json",
)  # fmt: skip
_TENSOR: Final = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_DROPPED: Final = re.compile(r"data/sample_inputs/.*|\.data/serialization_id|data/(weights|constants)/|models/|data/")
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|getitem|ge|gt|le|lt|eq|ne|and_|or_)"
    r"|torch\.sym_(max|min|int|float|not|ite|sum)|math\.(ceil|floor|trunc)"
)
_SIZE: Final = re.compile(
    r"(?:Symbol\('\w{1,16}'(?:, (?:positive|nonnegative|integer)=True)*\)|\b[su]\d+\b|\b\d+\b"
    r"|\b(?:Integer|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilToInt)\b|[-+*/(), ])+"
)
_TYPES: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def clean_archive(content: bytes) -> bytes:
    """Return an archive with what its program needs, and nothing else.

    Raises ValueError, saying what it is, for what could run code, read or write a file, or unpack to more than it says.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(info) for name, info in _members(archive, len(content))}
    except UNREADABLE as error:
        raise ValueError(f"it is no archive of a program: {error}") from error
    strange = [name for name in members if name not in _KEPT and not _TENSOR.fullmatch(name)]
    if strange or "models/model.json" not in members:
        raise ValueError(f"it holds {strange[0]!r}" if strange else "it holds no program")
    try:
        for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            _check_tensors(members, config)
        program = _clean_program(_read_json(members["models/model.json"]))
        members["models/model.json"] = json.dumps(program).encode()
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its JSON is none that PyTorch writes: {type(error).__name__}: {error}") from error
    members["data/sample_inputs/model.pt"] = b""  # PyTorch wants one, and takes an empty one for none
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(f"program/{name}"), member)  # of no time: equal programs are equal
    return written.getvalue()


def _members(archive: zipfile.ZipFile, size_bytes: int) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Give the members by their names below the archive's one folder, without those that are dropped."""
    infos = archive.infolist()
    check_members(infos, size_bytes)
    first = infos[0].filename.partition("/")[0] if infos else ""
    for info in infos:
        folder, slash, name = info.filename.partition("/")
        if not slash or folder in {"", "."} or folder != first:
            raise ValueError(f"it holds {info.filename!r}, which is not in its one folder")
        if name and not _DROPPED.fullmatch(name):
            yield name, info


def _check_tensors(members: dict[str, bytes], config: str) -> None:
    """Raise ValueError unless each tensor is its bytes, and has as many as its shape wants."""
    if config not in members:
        return
    for name, found in dict(_read_json(members[config]).get("config", {})).items():
        path = f"{config.rsplit('/', 1)[0]}/{found.get('path_name')}"
        if found.get("use_pickle") or not _TENSOR.fullmatch(path) or path not in members:
            raise ValueError(f"{name!r} is pickled, which runs code when it is read: keep plain, dense tensors")
        sizes = [size.get("as_int", 0) for size in found["tensor_meta"]["sizes"]]
        if prod(sizes) > len(members[path]):
            raise ValueError(f"{name!r} promises {prod(sizes)} elements, in {len(members[path])} bytes")


def _clean_program(program: dict[str, Any]) -> dict[str, Any]:
    """Return a program without what was noted of its source, and its guards. Raises ValueError for what may not be."""
    graph_module = program.get("graph_module", {})
    if graph_module.get("treespec_namedtuple_fields") or graph_module.get("graph", {}).get("custom_obj_values"):
        raise ValueError("it takes or holds objects of classes of its own")
    program["guards_code"] = []
    graph_module["metadata"] = {}
    for found in _walk(program):
        if "nodes" in found:
            for node in found["nodes"]:
                node["metadata"] = {}
        for key in ("target", "expr_str", "in_spec", "out_spec"):
            if isinstance(found.get(key), str):
                _check_text(key, found[key])
    return program


def _check_text(key: str, text: str) -> None:
    if key == "target" and not _OPERATOR.fullmatch(text):
        raise ValueError(f"it calls {text!r}, which is none of PyTorch's own operators on tensors")
    if key == "expr_str" and not _SIZE.fullmatch(text):
        raise ValueError(f"a size is {text[:60]!r}, which is more than sums and products")
    if key in {"in_spec", "out_spec"}:
        for found in _walk(_read_json(text.encode())):
            if found.get("type") not in _TYPES or "__enum__" in str(found.get("context")):
                raise ValueError(f"it takes or gives a {found.get('type')!r}: take tensors, and give one")


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it holds JSON that cannot be read: {error}") from error


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Give every object in a JSON value."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield found
            stack += found.values()
        elif isinstance(found, list):
            stack += found
