"""The descriptor of a pipeline's file, beside what protoc makes of its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto_types import Decision, Order, numbers_of
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import Lock
from tailrace.codecs.proto_text import proto_text
from tailrace.errors import SetupError
from tailrace.request.schema import Request


def compiled_file(folder: Path, lock: Lock) -> bytes:
    """Return what protoc makes of the exported text."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    text = proto_text("shop", message_forms(Order, Decision), lock, ("Order", "Decision"))
    (folder / "shop.proto").write_text(text)
    known = str(Path(protoc.__file__).parent / "_proto")
    out = folder / "shop.bin"
    assert protoc.main(["protoc", f"-I{folder}", f"-I{known}", f"--descriptor_set_out={out}", "shop.proto"]) == 0
    return out.read_bytes()


def test_descriptor_is_what_protoc_makes_of_the_text(tmp_path: Path) -> None:
    """Every field, enum, map, presence and method, with a field and a text that are gone."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    from tailrace.codecs.proto_file import proto_files

    lock = numbers_of(Order, Decision)
    order = lock.messages["Order"]
    order.reserved.append(2000)
    order.fields["kind"].retired.append(9)
    *needed, own = proto_files("shop", message_forms(Order, Decision), lock, "Order", "Decision")
    assert len(needed) == 1
    expected = FileDescriptorSet.FromString(compiled_file(tmp_path, lock)).file[0]
    found = FileDescriptorProto.FromString(own)
    assert found == expected


def test_message_called_as_the_service_is_refused() -> None:
    """Both names would be one in the package."""
    predictor = type("Predictor", (Request,), {"__annotations__": {"one": float}, "__module__": __name__})
    with pytest.raises(SetupError, match="name of the service"):
        proto_text("shop", message_forms(predictor, Decision), numbers_of(predictor, Decision), ())
