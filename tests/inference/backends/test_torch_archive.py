"""Archives of PyTorch's programs: what could run code is left out or refused, before PyTorch is there at all."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.inference.backends.torch_archive import clean_archive

Members = dict[str, bytes]


def program_of(**changes: Any) -> dict[str, Any]:
    """Return a program of one node, as `torch.export.save` writes it."""
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}}],
        "metadata": {"stack_trace": "net.py", "torch_fn": "relu"},
    }
    size = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)"}}
    spec = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'
    program: dict[str, Any] = {
        "graph_module": {
            "graph": {"nodes": [node], "tensor_values": {"x": {"sizes": [size]}}, "custom_obj_values": {}},
            "module_call_graph": [{"signature": {"in_spec": spec}}],
            "metadata": {"custom": "1"},
            "treespec_namedtuple_fields": {},
        },
        "guards_code": ["__import__('os')"],
    }
    return program | changes


def archive_of(program: Any = None, *, other: Members | None = None, pickled: bool = False, size: int = 4) -> bytes:
    """Return an archive of a program with one weight."""
    meta = {"path_name": "weight_0", "use_pickle": pickled, "tensor_meta": {"sizes": [{"as_int": size}]}}
    members = {
        "net/models/model.json": json.dumps(program or program_of()).encode(),
        "net/data/weights/model_weights_config.json": json.dumps({"config": {"w": meta}}).encode(),
        "net/data/weights/weight_0": bytes(16),
        "net/data/sample_inputs/model.pt": b"\x80\x02cos\nsystem\n.",
        "net/archive_format": b"pt2",
        **(other or {}),
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def read_members(content: bytes) -> Members:
    """Return the members of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_program_is_all_that_is_left() -> None:
    """Sample inputs, guards and what was noted of the source go; what is clean stays as it is."""
    cleaned = clean_archive(archive_of())
    members = read_members(cleaned)
    assert members["data/sample_inputs/model.pt"] == b""
    program = json.loads(members["models/model.json"])
    assert program["guards_code"] == []
    assert program["graph_module"]["metadata"] == program["graph_module"]["graph"]["nodes"][0]["metadata"] == {}
    assert members["data/weights/weight_0"] == bytes(16)
    assert clean_archive(cleaned) == cleaned


@pytest.mark.parametrize(
    "target",
    ["torch.hub.load", "torch.load", "torch.ops.load_library", "torch.ops.aten.from_file.default",
     "_operator.methodcaller",
     "torch.ops.mine.run.default", "torch.ops.higher_order.cond", "os.system", "#torchscript:x", "torch.ops.aten.relu"],
)  # fmt: skip
def test_operator_of_others_is_refused(target: str) -> None:
    """PyTorch would call whatever a node names."""
    program = program_of()
    program["graph_module"]["graph"]["nodes"][0]["target"] = target
    with pytest.raises(ValueError, match="none of PyTorch's own operators"):
        clean_archive(archive_of(program))


@pytest.mark.parametrize(
    "size",
    ["__import__('os').system('id')", "exec(chr(105))", "s77.__class__", "Symbol('s77; x', integer=True)", "eval", "[]",
     "Symbol(s77, cls=print)", "lambda: 0"],
)  # fmt: skip
def test_size_that_is_code_is_refused(size: str) -> None:
    """SymPy would evaluate it."""
    program = program_of()
    program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"] = [{"as_expr": {"expr_str": size}}]
    with pytest.raises(ValueError, match="more than sums and products"):
        clean_archive(archive_of(program))


@pytest.mark.parametrize("size", ["s77", "2*s77 + 1", "Mul(Integer(2), Symbol('s77', positive=True, integer=True))"])
def test_size_that_is_a_sum_or_product_is_kept(size: str) -> None:
    """Any number of rows is the common case."""
    program = program_of()
    program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"] = [{"as_expr": {"expr_str": size}}]
    assert clean_archive(archive_of(program))


def with_class(program: dict[str, Any]) -> None:
    """Let the program take an object of a class of its own."""
    program["graph_module"]["treespec_namedtuple_fields"] = {"net.Point": ["x", "y"]}


def with_enumeration(program: dict[str, Any]) -> None:
    """Let a context name a class that is imported."""
    context = json.dumps({"__enum__": True, "fqn": "os:name"})
    spec = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])
    program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec


def with_object(program: dict[str, Any]) -> None:
    """Let the program hold an object."""
    program["graph_module"]["graph"]["custom_obj_values"] = {"obj": {"class_fqn": "__main__.Thing"}}


@pytest.mark.parametrize("change", [with_class, with_enumeration, with_object])
def test_program_with_objects_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """What is no tensor is of a class, which would be imported."""
    program = program_of()
    change(program)
    with pytest.raises(ValueError, match=r"objects of classes|take tensors"):
        clean_archive(archive_of(program))


def linked() -> bytes:
    """Return an archive with a link in it."""
    written = io.BytesIO(archive_of())
    info = zipfile.ZipInfo("net/data/weights/weight_1")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(written, "a") as archive:
        archive.writestr(info, "/etc/hostname")
    return written.getvalue()


def swollen() -> bytes:
    """Return an archive of some kilobytes that unpacks to 64 MiB."""
    written = io.BytesIO(archive_of())
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/weight_1", bytes(1 << 26))
    return written.getvalue()


def damaged() -> bytes:
    """Return an archive whose compressed weight is none any more."""
    written = io.BytesIO(archive_of())
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/weight_1", bytes(1000))
        place = archive.getinfo("net/data/weights/weight_1").header_offset + 30 + len("net/data/weights/weight_1")
    content = bytearray(written.getvalue())
    content[place : place + 5] = b"\xff" * 5
    return bytes(content)


def of_another_kind(compression: int) -> bytes:
    """Return an archive with a member that is compressed in some way."""
    written = io.BytesIO(archive_of())
    with zipfile.ZipFile(written, "a", compression) as archive:
        archive.writestr("net/data/weights/weight_1", bytes(100))
    return written.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "none": (lambda: b"", "no archive"),
    "a pickle": (lambda: b"\x80\x02cos\nsystem\n.", "no archive"),
    "cut short": (lambda: archive_of()[:-40], "no archive"),
    "a pickled weight": (lambda: archive_of(pickled=True), "is pickled"),
    "100 GB promised": (lambda: archive_of(size=25_000_000_000), "promises 25000000000 elements, in 16 bytes"),
    "a way up": (lambda: archive_of(other={"net/../../etc/cron": b""}), "above it"),
    "an absolute path": (lambda: archive_of(other={"/etc/cron": b""}), "above it"),
    "a way up elsewhere": (lambda: archive_of(other={"net/..\\..\\cron": b""}), "above it"),
    "a second folder": (lambda: archive_of(other={"other/data/weights/weight_0": bytes(16)}), "not in its one folder"),
    "a file beside the folder": (lambda: archive_of(other={"cron": b""}), "not in its one folder"),
    "a link": (linked, "is a link"),
    "a bomb": (swollen, "unpacks to more"),
    "damaged": (damaged, "no archive"),
    "of BZIP2": (lambda: of_another_kind(zipfile.ZIP_BZIP2), "another way than deflate"),
    "of LZMA": (lambda: of_another_kind(zipfile.ZIP_LZMA), "another way than deflate"),
    "a second program": (lambda: archive_of(other={"net/models/other.json": b"{}"}), "holds 'models/other.json'"),
    "another's code": (lambda: archive_of(other={"net/data/aotinductor/x.so": b"\x7fELF"}), "holds 'data/aot"),
    "an extra": (lambda: archive_of(other={"net/extra/notes": b""}), "holds 'extra/notes'"),
    "no program": (
        lambda: archive_of().replace(b"models/model.json", b"models/model.txt_"),
        "holds 'models/model.txt_'",
    ),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_that_attacks_is_refused(kind: str) -> None:
    """What unpacks upwards, lies, grows, or is pickled is told by its name."""
    make, words = ARCHIVES[kind]
    with pytest.raises(ValueError, match=words):
        clean_archive(make())


WEIGHTS = "net/data/weights/model_weights_config.json"
PROGRAM = "net/models/model.json"
STRANGE = [
    (WEIGHTS, []), (WEIGHTS, {"config": 7}), (WEIGHTS, {"config": {"w": "x"}}), (WEIGHTS, {"config": {"w": None}}),
    (WEIGHTS, {"config": {"w": {"path_name": "weight_0"}}}),
    (WEIGHTS, {"config": {"w": {"path_name": "weight_0", "tensor_meta": {"sizes": [4]}}}}),
    (WEIGHTS, {"config": {"w": {"path_name": "weight_0", "tensor_meta": {"sizes": [{"as_int": "4"}]}}}}),
    (PROGRAM, []), (PROGRAM, "x"), (PROGRAM, {"graph_module": 1}), (PROGRAM, program_of(nodes=[1])),
    (PROGRAM, program_of(nodes=7)), (PROGRAM, program_of(in_spec='{"type": []}')),
]  # fmt: skip


@pytest.mark.parametrize(("member", "value"), STRANGE)
def test_json_of_another_form_is_refused(member: str, value: Any) -> None:
    """A list where an object was, a name that is missing: it is told as what it is, whatever Python says of it."""
    with pytest.raises(ValueError, match="none that PyTorch writes"):
        clean_archive(archive_of(other={member: json.dumps(value).encode()}))
