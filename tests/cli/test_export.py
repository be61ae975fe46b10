"""`tailrace export proto` writes messages that protoc takes, and keeps their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from proto_types import Decision, Order, compiled
from tailrace.cli.main import app
from tailrace.errors import SetupError

PIPELINE = """
import tailrace as tr
class Payment(tr.Request):
    amount: float
    {field}: int = 0
class Decision(tr.Response):
    score: float
p = tr.Pipeline(name="fraud", request=Payment, response=Decision, features=[Payment.amount],
                model=tr.Model("fraud"), budget=tr.Budget("50ms"))
"""


def export(*arguments: str) -> str:
    """Run the command; return what it prints."""
    done = CliRunner().invoke(app, ["export", "proto", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_second_export_keeps_the_numbers_of_the_first(tmp_path: Path) -> None:
    """A renamed field gets a new number, the old one is reserved; nothing changed, nothing written otherwise."""
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text(PIPELINE.format(field="count"))
    other.write_text(PIPELINE.format(field="many"))
    export(str(one))
    written = [(tmp_path / f"fraud.proto{end}").read_text() for end in ("", ".lock")]
    assert "optional double amount = 1;\n  optional int64 count = 2;" in written[0]
    export(str(one), "fraud")
    assert [(tmp_path / f"fraud.proto{end}").read_text() for end in ("", ".lock")] == written
    assert "fits the types" in export(str(one), "--check")
    with pytest.raises(SetupError, match="changed since"):
        export(str(other), "--check")
    (tmp_path / "out").mkdir()
    export(str(other), "--out", str(tmp_path / "out"))
    text = (tmp_path / "out" / "fraud.proto").read_text()
    assert "reserved 2;\n  optional double amount = 1;\n  optional int64 many = 3;" in text


def test_check_without_numbers_fails(tmp_path: Path) -> None:
    """A check that has nothing to compare is no success."""
    file = tmp_path / "one.py"
    file.write_text(PIPELINE.format(field="count"))
    with pytest.raises(SetupError, match="no numbers"):
        export(str(file), "--check")
    with pytest.raises(SetupError, match="no pipeline is called"):
        export(str(file), "other")
    with pytest.raises(SetupError, match="cannot be written"):
        export(str(file), "--out", str(tmp_path / "none"))


def test_protoc_takes_a_field_of_every_form(tmp_path: Path) -> None:
    """And says of each whether it was sent."""
    messages = compiled(tmp_path, Order, Decision, "every_form")
    order = messages.Order(amount=0.0, kind=messages.Order.KIND_TWO_FOLD, vector=[1.0, 2.0, 3.0])
    assert order.HasField("amount")
    assert not order.HasField("vip")
    assert order.SerializeToString().count(b"\x18") >= 1  # three doubles in one field
    assert messages.OrderArray.DESCRIPTOR.fields_by_name["items"].number == 2047
