"""Forgetting: an entity goes from every view and schema, and no source brings it back."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from customer_runs import (
    NOW_NS,
    PAGE,
    ROWS,
    Folder,
    command,
    editions,
    profiles,
    spec_of,
    stopped_run,
    write_parquet,
    write_pipeline,
)

from tailrace.errors import SetupError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.catalogue import key_end
from tailrace.features.keys import KeyFormat
from tailrace.features.sources import Parquet
from tailrace.features.stores.opening import open_writer
from tailrace.features.view_spec import Entity
from tailrace.offline.forget import forget, ids_of, unforget

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

SOURCE = Parquet("profile.parquet", time="as_of")
SPEC = spec_of(SOURCE)
WITHOUT_7 = [1] * 7 + [None] + [1] * (ROWS - 8)


class Changed(BatchFeatureView):
    """Another view of the same entity, which no pipeline of the test's file declares."""

    entity = Entity("customer", key="customer_id")
    source = SOURCE
    amount: float = 0.0


def test_forget_removes_every_view_and_schema(tmp_path: Path, url: str) -> None:
    """Those that only the catalogue knows too, and rows of the layout before; an id is a number and a text."""
    with closing(open_writer(url)) as writer:
        folder = Folder(tmp_path, writer)
        write_parquet(tmp_path / "profile.parquet", profiles(1))
        folder.run(SOURCE)
        folder.run(spec=Changed.spec)
        old, neighbour = b"{customer:7}Profile", b"{customer:70}Profile"
        record = b'{"source":"","place":"","pipelines":[],"schemas":{"0badcafe":{"entity":"customer"}}}'
        writer.exchange([(old, b"x"), (neighbour, b"x"), (b"tailrace:catalogue:Gone", record)], ())
        keys = KeyFormat("customer", key_end("Gone", "0badcafe"))
        number, text = keys.key(7), keys.key("7")
        writer.exchange([(number, b"x"), (text, b"x")], ())
        report = forget(writer, "customer", ids_of("7", {int}), [SPEC], NOW_NS)
        assert report.views == ("Changed", "Gone", "Profile")
        assert report.removed == 5
        assert [writer.get(key) for key in (old, number, text, neighbour)] == [None, None, None, b"x"]
        assert folder.editions() == WITHOUT_7
        assert list(writer.scan(b"{customer:7}", b"")) == [b"{customer:7}:forgotten"]


def test_forgotten_entity_does_not_come_back_until_it_is_unforgotten(tmp_path: Path, url: str) -> None:
    """Whatever the source says, and under a new schema too."""
    with closing(open_writer(url)) as writer:
        folder = Folder(tmp_path, writer)
        write_parquet(tmp_path / "profile.parquet", profiles(1))
        folder.run(SOURCE)
        forget(writer, "customer", ids_of("7", {int}), [SPEC], NOW_NS)
        report = folder.run(SOURCE)
        assert (report.unchanged, report.forgotten) == (ROWS - 1, 1)
        assert folder.run(spec=Changed.spec).forgotten == 1
        assert folder.editions() == WITHOUT_7
        assert unforget(writer, "customer", ids_of("7", {int}))
        assert not unforget(writer, "customer", ids_of("7", {int}))
        assert folder.run(SOURCE).written == 1
        assert folder.editions() == [1] * ROWS


def test_entity_forgotten_during_a_run_is_not_written_by_it(tmp_path: Path, url: str) -> None:
    """The tombstone is looked for where each row is written, and needs no lease."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    for entity in ("3", "25"):
        with stopped_run(file, url, 2 * PAGE, lease_ms=500) as process:
            told = command("forget", file, "customer", entity, "--store", url)
            assert told.returncode == 0, told.stderr
            process.communicate("\n", timeout=60)
            assert process.returncode == 0
    with closing(open_writer(url)) as writer:
        assert editions(writer, SPEC) == [None if each in (3, 25) else 1 for each in range(ROWS)]


def test_forget_command_removes_and_brings_back(tmp_path: Path) -> None:
    """It tells what it did, as text and as JSON."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    assert command("materialize", file).returncode == 0
    assert command("forget", file, "customer", "7").stdout == "customer 7: forgotten; 1 rows removed, of Profile\n"
    assert json.loads(command("forget", file, "customer", "7", "--json").stdout) == {
        "store": f"lmdb:{tmp_path / 'store'}", "entity": "customer", "id": "7", "views": ["Profile"], "removed": 0,
    }  # fmt: skip
    assert command("forget", file, "customer", "7").stdout == "customer 7: nothing was stored of it; it stays away\n"
    assert "1 left out, since they are forgotten" in command("materialize", file).stdout
    assert "may be brought back" in command("forget", file, "customer", "7", "--unforget").stdout
    assert "1 rows written" in command("materialize", file).stdout
    wrong = command("forget", file, "costumer", "7")
    assert wrong.returncode == 1
    assert "choose from customer" in wrong.stderr


def test_forget_command_takes_the_id_as_the_request_declares_it(tmp_path: Path) -> None:
    """007 is the number 7, whose row goes; a text that is no number is an error, and nothing is told forgotten."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    assert command("materialize", file).returncode == 0
    assert command("forget", file, "customer", "007").stdout == "customer 7: forgotten; 1 rows removed, of Profile\n"
    wrong = command("forget", file, "customer", "c-8")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "'c-8' is no id: the request declares an integer" in wrong.stderr
    with closing(open_writer(f"lmdb:{tmp_path / 'store'}")) as writer:
        assert editions(writer, SPEC) == WITHOUT_7
        assert list(writer.scan(b'{customer:"c-8"', b"")) == []


@pytest.mark.parametrize("is_folder", [True, False])
def test_forget_makes_no_store(tmp_path: Path, is_folder: bool) -> None:
    """A mistyped path is an error; no empty store is left there to say that the entity is forgotten."""
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    typo = tmp_path / "typo"
    if is_folder:
        typo.mkdir()
    for options in ((), ("--unforget",)):
        told = command("forget", file, "customer", "7", "--store", f"lmdb:{typo}", *options)
        assert (told.returncode, told.stdout) == (1, "")
        assert f"{typo}: there is no store" in told.stderr
    assert typo.exists() == is_folder
    assert not list(tmp_path.glob("typo/*"))


def test_forget_goes_on_where_one_store_is_missing(tmp_path: Path) -> None:
    """Of two pipelines' stores the other one's rows go; the exit code tells of the first."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    assert command("materialize", file).returncode == 0
    both = tmp_path / "both.py"
    missing = file.read_text().replace('"lmdb:store"', '"lmdb:missing"').replace("visits = ", "orders = ")
    pipeline = file.read_text().partition("visits = ")
    both.write_text(missing.replace('name="visits"', 'name="orders"') + "\n" + pipeline[1] + pipeline[2])
    told = command("forget", both, "customer", "7", "--json")
    assert told.returncode == 1
    lines = {Path(line["store"]).name: line for line in map(json.loads, told.stdout.splitlines())}
    assert lines["missing"]["error"] == "there is no store"
    assert lines["store"]["removed"] == 1


@pytest.mark.parametrize(
    ("text", "types", "ids"),
    [
        ("7", {int}, [7, "7"]),
        ("007", {int}, [7, "7"]),
        ("-7", {int}, [-7, "-7"]),
        ("7", {str}, ["7", 7]),
        ("007", {str}, ["007"]),
        ("007", {int, str}, ["007", 7]),
        ("c-7", {int, str}, ["c-7"]),
        ("c-7", {str}, ["c-7"]),
        ("7 ", {str}, ["7 "]),
        ("", {str}, [""]),
        ("7", {None}, ["7", 7]),
    ],
)
def test_ids_of_a_text_are_what_it_stands_for(text: str, types: set[type | None], ids: list[object]) -> None:
    """As the request declares it, and as another pipeline of the store may."""
    assert ids_of(text, types) == ids


@pytest.mark.parametrize("text", ["c-7", "", "7 ", "1_000", "7.0", "٧", str(2**63), "9" * 5_000])
def test_text_that_is_no_number_is_no_id_where_ids_are_numbers(text: str) -> None:
    """No request could hold it."""
    with pytest.raises(SetupError, match="is no id"):
        ids_of(text, {int})
