"""Derived keys offline: views are materialised by them, and training sets equal what is served, hop by hop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import structlog
from customer_runs import write_parquet
from typer.testing import CliRunner, Result

import tailrace as tr
from pipelines.model_graphs import DERIVED_RANKED_WEIGHTS, DERIVED_WEIGHTS, linear
from tailrace.batch import Batch
from tailrace.cli.main import app
from tailrace.compile.binding import reader_of
from tailrace.compile.loading import load_pipelines
from tailrace.compile.resolve import wire
from tailrace.deadline import MonotonicClock
from tailrace.errors import SetupError
from tailrace.features.stores.opening import open_writer
from tailrace.monitor import sampler
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.offline.consistency import compare_samples
from tailrace.offline.materialize import MaterializeReport
from tailrace.offline.pipeline_views import materialize_pipeline
from tailrace.pipeline import Pipeline
from tailrace.testing import ManualClock, TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

START = datetime(2018, 4, 1, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
FILE = Path(__file__).parents[1] / "pipelines" / "derived.py"
FEATURES = tuple(DERIVED_WEIGHTS)
ROWS = 150
ITEMS, CATEGORIES, DEPARTMENTS = 12, 5, 3
MINUTES = 10
"""Between two purchases; sources have new rows once in a while meanwhile."""

SOURCES = {"Item": "items", "Category": "categories", "Department": "departments"}
KEYS = {"Item": "item_id", "Category": "category_id", "Department": "department"}


def world(folder: Path, text: bool = False) -> Path:
    """Write a pipeline's file, models and sources; text: whether categories have texts for ids."""
    (folder / "models").mkdir()
    linear(folder / "models", "derived", DERIVED_WEIGHTS)
    linear(folder / "models", "derived_ranked", DERIVED_RANKED_WEIGHTS)
    for name, table in sources(text).items():
        write_parquet(folder / f"{name}.parquet", table)
    file = Path(shutil.copy(FILE, folder))
    if text:
        declared = file.read_text().replace("category_id: int = 0", 'category_id: str = ""')
        file.write_text(declared.replace("category_id: int\n", "category_id: str\n"))
    return file


def sources(text: bool = False) -> dict[str, dict[str, list[Any]]]:
    """Return rows of each source, new ones every 15 hours: categories move, are null for a while, or are unknown."""
    random = np.random.default_rng(3)
    times = [START + timedelta(hours=hours) for hours in range(-12, 48, 15)]
    name: Callable[[int], Any] = (lambda number: f"k,{number}") if text else int

    def category() -> Any:
        number = int(random.integers(CATEGORIES + 2))  # the last but one is unknown
        return None if number > CATEGORIES else name(number)

    def department() -> str | None:
        number = int(random.integers(DEPARTMENTS + 2))
        return None if number > DEPARTMENTS else f"d{number}"

    items = [(item, at) for at in times for item in range(ITEMS - 2)]  # the last two are unknown
    categories = [(number, at) for at in times[1:] for number in range(CATEGORIES)]
    departments = [(f"d{number}", at) for at in times for number in range(DEPARTMENTS)]
    return {
        "items": {
            "item_id": [item for item, _ in items],
            "as_of": [at for _, at in items],
            "price": random.random(len(items)).tolist(),
            "category_id": [category() for _ in items],
        },
        "categories": {
            "category_id": [name(number) for number, _ in categories],
            "as_of": [at for _, at in categories],
            "margin": random.random(len(categories)).tolist(),
            "department": [department() for _ in categories],
        },
        "departments": {
            "department": [each for each, _ in departments],
            "as_of": [at for _, at in departments],
            "heads": random.random(len(departments)).tolist(),
        },
    }


def pipeline_of(file: Path, name: str = "derived") -> Pipeline:
    """Return one of the pipelines."""
    return next(pipeline for pipeline in load_pipelines(file) if pipeline.name == name)


def purchases() -> list[dict[str, Any]]:
    """Return purchases of all items, known and unknown, in order."""
    random = np.random.default_rng(4)
    return [
        {
            "purchase_id": number,
            "customer_id": int(random.integers(3)),
            "item_id": int(random.integers(ITEMS)),
            "amount": round(float(random.random()), 2),
            "time": START + timedelta(minutes=MINUTES * number),
        }
        for number in range(ROWS)
    ]


def serve(on_batch: Callable[[Batch], None], pipeline: Pipeline, text: bool) -> None:
    """Serve the purchases in order; sources' rows are put when they come, and what was bought is sent behind each."""
    rows = sources(text)
    views: dict[str, Any] = {view.__name__: view for view in pipeline.views}
    due = [
        (at, view, {name: values[place] for name, values in rows[table].items()})
        for view, table in SOURCES.items()
        for place, at in enumerate(rows[table]["as_of"])
    ]
    due.sort(key=lambda each: each[0])
    with TestClient(pipeline, clock=ManualClock(wall_ns=START_NS)) as client:
        for request, event in zip(purchases(), bought(text), strict=True):
            while due and due[0][0] <= request["time"]:
                _, view, row = due.pop(0)
                columns = {each.name: row[each.name] for each in views[view].spec.columns}
                client.put(views[view], row[KEYS[view]], **columns)
            on_batch(client.run([msgspec.json.encode(request)]))
            client.push(views["CustomerCategory"].spec.stream, event)
            client._clock.advance(MINUTES * 60_000)  # type: ignore[attr-defined]


def bought(text: bool) -> list[dict[str, Any]]:
    """Return the events of the purchases; each is of some category."""
    random = np.random.default_rng(5)
    numbers = random.integers(CATEGORIES + 1, size=ROWS).tolist()
    return [
        {name: each[name] for name in ("purchase_id", "customer_id", "amount", "time")}
        | {"category_id": f"k,{number}" if text else number}
        for each, number in zip(purchases(), numbers, strict=True)
    ]


def write_bought(folder: Path, text: bool) -> None:
    """Write the history of what was bought."""
    events = bought(text)
    write_parquet(folder / "bought.parquet", {name: [each[name] for each in events] for name in events[0]})


@pytest.mark.parametrize("text", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["numbers", "texts"])
def test_what_was_served_is_what_training_has(text: bool, tmp_path: Path) -> None:
    """Over three hops, as of each request: with items that move, and items, categories and departments of no one.

    Samples are consistent with it; one whose key was late has that as its reason.
    """
    file = world(tmp_path, text)
    write_bought(tmp_path, text)
    pipeline = pipeline_of(file)
    table = tr.dataset(pipeline, pa.Table.from_pylist(purchases()))
    wires = wire(pipeline).features
    served: dict[str, list[float]] = {name: [] for name in FEATURES}
    writer = SampleWriter(tmp_path / "samples.jsonl.0", structlog.get_logger())
    recorder = Sampler(pipeline, "r1", writer, MonotonicClock())

    def note(batch: Batch) -> None:
        recorder.record(batch, len(served["amount"]) * sampler._INTERVAL_NS)
        for name in FEATURES:
            served[name].append(float(reader_of(wires[name]).read(batch)[0]))
        while writer.waiting:
            pass

    serve(note, pipeline, text)
    writer.close()
    for name in FEATURES:
        assert table[name].to_pylist() == served[name], name
    for name, default in (("Category.margin", -1.0), ("Department.heads", -2.0), ("CustomerCategory.own_1d", 0)):
        assert 0 < served[name].count(default) < ROWS, name
    assert max(served["CustomerCategory.count_1d"]) > 1
    lines = (tmp_path / "samples.jsonl.0").read_text().splitlines()
    late = json.loads(lines[-1])
    late["provenance"]["Item"] = "timeout"
    late["features"]["Category.margin"] = 77.0
    (tmp_path / "samples.jsonl").write_text("\n".join([*lines[:-1], json.dumps(late)]))
    (tmp_path / "samples.jsonl.0").unlink()
    report = compare_samples(pipeline, tmp_path / "samples.jsonl")
    assert report.rows == ROWS
    differing = {name: each.differing for name, each in report.features.items() if each.differing}
    assert differing == {"Category.margin": {"timeout": 1}}


def test_views_of_derived_keys_are_materialised_by_their_columns(tmp_path: Path) -> None:
    """All views, the one that only gives keys too; and commands take the ids of a derived entity."""
    file = world(tmp_path)
    reports = dict(materialize_pipeline(pipeline_of(file)))
    assert {view: each.written for view, each in reports.items() if isinstance(each, MaterializeReport)} == {
        "Item": ITEMS - 2, "Category": CATEGORIES, "Department": DEPARTMENTS,
    }  # fmt: skip
    shown = call("features", str(file), "category", "1", "--json")
    told = json.loads(shown.stdout.splitlines()[0])
    assert (told["view"], told["provenance"]) == ("Category", "fresh")
    shown = call("features", str(file), "item", "0", "--json")
    told = {each["view"]: each for each in map(json.loads, shown.stdout.splitlines())}
    assert list(told) == ["Item", "Category", "Department", "RankedItem", "RankedCategory"]  # a request says who buys
    category, department = told["Item"]["values"]["category_id"], told["Category"]["values"]["department"]
    assert (told["Category"]["entity_id"], told["Department"]["entity_id"]) == (category, department)
    assert told["Department"]["provenance"] == "fresh"
    assert told["RankedCategory"] == told["RankedCategory"] | {"entity_id": None, "provenance": "default"}
    words = " ".join(call("features", str(file), "item", "0").stdout.split())
    assert f"derived.Category of category {category}: fresh" in words
    assert "RankedCategory default: no category is known" in words
    assert call("features", str(file), "customer_category", "1,1", "--json").exit_code == 0
    assert call("forget", str(file), "category", "1").stdout.startswith("category 1: forgotten; 1 rows removed")
    with pytest.raises(SetupError, match="is no id"):
        call("features", str(file), "category", "x")


def call(*words: str) -> Result:
    """Call a command as a shell would."""
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_key_whose_column_changed_its_type_is_another_key(tmp_path: Path) -> None:
    """Rows under the former type are not found: no item has a category of them until it is materialised again."""
    pipeline = pipeline_of(world(tmp_path))
    assert all(isinstance(each, MaterializeReport) for _, each in materialize_pipeline(pipeline))
    shutil.rmtree(tmp_path / "models")
    changed = pipeline_of(world(tmp_path, text=True))
    item, _, category, _ = (view.spec.codec() for view in changed.views)
    keys = [item.keys([1])[0], category.keys(["1"])[0], category.keys(["k,1"])[0]]
    with closing(open_writer(f"lmdb:{tmp_path / '.tailrace' / 'store'}", create=False)) as writer:
        assert [writer.get(key) for key in keys] == [None] * 3
    reports = dict(materialize_pipeline(changed))
    assert all(isinstance(each, MaterializeReport) and each.bad == 0 for each in reports.values()), reports
    with closing(open_writer(f"lmdb:{tmp_path / '.tailrace' / 'store'}", create=False)) as writer:
        assert [writer.get(key) is not None for key in keys] == [True, False, True]


@pytest.mark.slow
def test_training_set_of_lists_equals_what_was_served(tmp_path: Path) -> None:
    """Each item is a row with its own category; keys of the request, of its user and of the item go together."""
    declared = FILE.read_text()
    declared = declared.replace("    item_ids: list[int]\n", "    item_ids: list[int]\n    time: datetime\n")
    file = world(tmp_path)
    file.write_text(
        declared.replace('    model=tr.Model("derived_ranked"),', '    model=tr.Model("derived_ranked"), time="time",')
    )
    tables = {
        "users.csv": "user_id,region\nann,n\nbob,\n",
        "ranked_items.csv": "item_id,category_id\n1,10\n2,20\n3,\n4,0\n",
        "user_categories.csv": "user_id,category_id,liking\nann,10,0.25\nann,20,0.75\nbob,0,0.125\n",
        "ranked_categories.csv": "category_id,margin\n10,1\n0,3\n",
        "regions.csv": "region,tax\nn,4\n",
        "region_categories.csv": "region,category_id,local\nn,20,2.5\nn,0,3.5\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    pipeline = pipeline_of(file, "derived_ranked")
    requests = [
        {"user_id": user, "item_ids": items, "time": START.isoformat()}
        for user, items in (("ann", [1, 2, 3, 4, 5]), ("bob", [4, 1]), ("eve", [2, 3]))
    ]
    with pytest.warns(UserWarning, match="no time column"):
        table = tr.dataset(pipeline, pa.Table.from_pylist([each | {"time": START} for each in requests]))
    views: dict[str, Any] = {view.__name__: view for view in pipeline.views}
    with TestClient(pipeline) as client:
        client.put(views["User"], "ann", region="n")
        for item, category in ((1, 10), (2, 20), (3, None), (4, 0)):
            client.put(views["RankedItem"], item, category_id=category)
        for pair, liking in ((("ann", 10), 0.25), (("ann", 20), 0.75), (("bob", 0), 0.125)):
            client.put(views["UserCategory"], pair, liking=liking)
        for category, margin in ((10, 1.0), (0, 3.0)):
            client.put(views["RankedCategory"], category, margin=margin)
        client.put(views["Region"], "n", tax=4.0)
        for pair, local in ((("n", 20), 2.5), (("n", 0), 3.5)):
            client.put(views["RegionCategory"], pair, local=local)
        served = client.predict(requests)
    for name in DERIVED_RANKED_WEIGHTS:
        values = [value for answer in served for value in answer[name.partition(".")[2]]]
        assert table[name].to_pylist() == values, name
    assert table["RegionCategory.local"].to_pylist() == [-3, 2.5, -3, 3.5, -3, -3, -3, -3, -3]
