"""Entities of several fields offline: materialised, pruned, forgotten, shown; training sets equal what is served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from customer_runs import command, write_parquet

import tailrace as tr
from pipelines.model_graphs import PAIRS_RANKED_WEIGHTS, PAIRS_WEIGHTS, linear
from tailrace.compile.binding import reader_of
from tailrace.compile.loading import load_pipelines
from tailrace.compile.resolve import wire
from tailrace.errors import SetupError, SourceError, TailraceError
from tailrace.features.keys import composite_id
from tailrace.features.stores.opening import open_writer
from tailrace.offline.forget import ids_of
from tailrace.offline.materialize import MaterializeReport
from tailrace.offline.options import MaterializeOptions
from tailrace.offline.pipeline_views import materialize_pipeline
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

START = datetime(2018, 4, 1, tzinfo=UTC)
PAIRS = [(1, "2"), (12, ""), (1, "2,3"), (1, '2","3'), (2, "1"), (3, "a|b"), (3, "a"), (-1, "é"), (4, "77")]
FILE = Path(__file__).parents[1] / "pipelines" / "pairs.py"
FEATURES = tuple(PAIRS_WEIGHTS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of the pipelines of pairs, beside their models and the profiles of each pair."""
    (tmp_path / "models").mkdir()
    linear(tmp_path / "models", "pairs", PAIRS_WEIGHTS)
    linear(tmp_path / "models", "pairs_ranked", PAIRS_RANKED_WEIGHTS)
    write_pairs(tmp_path, PAIRS)
    return Path(shutil.copy(FILE, tmp_path))


def write_pairs(folder: Path, pairs: list[Any], **columns: list[Any]) -> None:
    """Write the profiles of some pairs, each with its place as its value."""
    profiles = {
        "customer": [pair[0] for pair in pairs],
        "terminal_id": [pair[1] for pair in pairs],
        "usual": [float(place) for place in range(len(pairs))],
        "note": ["n"] * len(pairs),
        "as_of": [START - timedelta(days=1)] * len(pairs),
    }
    write_parquet(folder / "pairs.parquet", profiles | columns)


def pipeline_of(file: Path, name: str = "pairs") -> Pipeline:
    """Return one of the pipelines."""
    return next(pipeline for pipeline in load_pipelines(file) if pipeline.name == name)


def run(pipeline: Pipeline, *views: str, **options: Any) -> Iterator[MaterializeReport | TailraceError]:
    """Materialise views of a pipeline; give what came of each."""
    for _, found in materialize_pipeline(pipeline, views=views, options=MaterializeOptions(**options)):
        yield found


def report(pipeline: Pipeline, view: str, **options: Any) -> MaterializeReport:
    """Materialise one view; return its report."""
    (found,) = run(pipeline, view, **options)
    assert isinstance(found, MaterializeReport), found
    return found


def usual_of(pipeline: Pipeline, pairs: list[Any]) -> list[float]:
    """Return what the store has of some pairs."""
    codec = next(view.spec.codec() for view in pipeline.views if view.__name__ == "PairProfile")
    ids = list(map(composite_id, pairs))
    with closing(open_writer(f"lmdb:{pipeline.base_dir / '.tailrace' / 'store'}", create=False)) as writer:
        rows = [writer.get(codec.key(each)) for each in ids]
    found: list[float] = codec.unpack(ids, rows, 0).column("usual").tolist()
    return found


def test_pairs_of_a_source_are_stored_under_the_ids_that_requests_ask_for(file: Path) -> None:
    """Ids that differ by where a comma or a quote stands, or by their order, are nine entities; another is unknown."""
    pipeline = pipeline_of(file)
    assert report(pipeline, "PairProfile", batch_rows=2).written == len(PAIRS)
    assert usual_of(pipeline, PAIRS) == [float(place) for place in range(len(PAIRS))]
    assert usual_of(pipeline, [(1, "3"), ("1", "2"), (77, "4")]) == [-1.0] * 3
    assert report(pipeline, "PairProfile").unchanged == len(PAIRS)


def test_pairs_of_a_source_of_other_types_are_the_same_pairs(file: Path) -> None:
    """Customers as floats with a null, as pandas makes them, and terminals as numbers; a half is no customer."""
    pipeline = pipeline_of(file)
    customers, terminals = pa.array([4.0, None, 2.5, 5.0]), pa.array([77.0, 1.0, 2.0, None])
    write_pairs(file.parent, [(0, "")] * 4, customer=customers, terminal_id=terminals)  # type: ignore[arg-type]
    found = report(pipeline, "PairProfile")
    assert (found.written, found.bad) == (1, 3)
    assert usual_of(pipeline, [(4, "77")]) == [0.0]
    assert [each.why for each in found.examples] == [
        "customer: there is none", "customer: 2.5 is no int", "terminal_id: there is none",
    ]  # fmt: skip


def test_latest_row_of_a_pair_is_written(file: Path) -> None:
    """A later row of the same customer at another terminal is another entity's."""
    pipeline = pipeline_of(file)
    times = [START, START + timedelta(hours=1), START + timedelta(hours=2)]
    write_pairs(file.parent, [(4, "77"), (4, "77"), (4, "78")], as_of=times)
    assert report(pipeline, "PairProfile").written == 2
    assert usual_of(pipeline, [(4, "77"), (4, "78")]) == [1.0, 2.0]


def test_pairs_of_a_csv_are_of_the_types_that_requests_have(file: Path) -> None:
    """All is text in a CSV, and a text that reads as a number stays one; a request of many rows finds them."""
    (file.parent / "user_items.csv").write_text("user_id,item_id,liking\n007,1,0.25\n007,2,0.75\nann,x,1\n")
    (file.parent / "user_regions.csv").write_text("user_id,region,local\n007,7,4\n")
    pipeline = pipeline_of(file, "pairs_ranked")
    reports = list(run(pipeline, "UserItem", "UserRegion"))
    assert [(each.written, each.bad) for each in reports if isinstance(each, MaterializeReport)] == [(2, 1), (1, 0)]
    with closing(open_writer(f"lmdb:{file.parent / '.tailrace' / 'store'}", create=False)) as writer:
        for name, ids in (("UserItem", [("007", 1), ("007", 2)]), ("UserRegion", [(7, "007")])):
            codec = next(view.spec.codec() for view in pipeline.views if view.__name__ == name)
            assert all(writer.get(codec.key(composite_id(each))) for each in ids)


def test_source_without_a_column_of_the_key_is_an_error(file: Path) -> None:
    """The column is named, with one that is like it."""
    pq.write_table(pa.table({"customer": [1], "terminal": ["a"], "usual": [1.0], "note": [""], "as_of": [START]}),
                   file.parent / "pairs.parquet")  # fmt: skip
    (error,) = run(pipeline_of(file), "PairProfile")
    assert isinstance(error, SourceError)
    assert "no column 'terminal_id'" in error.what


def test_pairs_that_the_source_no_longer_has_are_pruned(file: Path) -> None:
    """Those alone: the customer's other pairs stay."""
    pipeline = pipeline_of(file)
    report(pipeline, "PairProfile")
    write_pairs(file.parent, PAIRS[:-1])
    assert report(pipeline, "PairProfile", prune=True, prune_max=1.0).pruned == 1
    assert usual_of(pipeline, PAIRS) == [*map(float, range(len(PAIRS) - 1)), -1.0]


def test_interrupted_run_over_pairs_is_resumed(file: Path) -> None:
    """By the last id that was written, as for ids of one field."""
    pipeline = pipeline_of(file)

    def stop(view: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    options = MaterializeOptions(batch_rows=2)
    with pytest.raises(KeyboardInterrupt):
        list(materialize_pipeline(pipeline, views=("PairProfile",), options=options, on_progress=stop))
    found = report(pipeline, "PairProfile", batch_rows=2)
    assert (found.resumed, found.written) == (4, len(PAIRS) - 4)
    assert usual_of(pipeline, PAIRS) == [float(place) for place in range(len(PAIRS))]


def test_forget_and_features_take_the_parts_as_a_line_of_csv(file: Path) -> None:
    """Quotes are needed only around what has a comma or a quote; another count of parts is an error."""
    pipeline = pipeline_of(file)
    report(pipeline, "PairProfile")
    shown = command("features", file, "customer_at_terminal", '1,"2,3"', "--json")
    values = {view["view"]: view["values"] for view in map(json.loads, shown.stdout.splitlines())}
    assert values["PairProfile"] == {"usual": 2.0, "note": "n"}
    told = command("forget", file, "customer_at_terminal", "4,77")
    assert told.stdout.startswith('customer_at_terminal 4,"77": forgotten; 1 rows removed'), told.stderr
    assert usual_of(pipeline, PAIRS[-3:]) == [6.0, 7.0, -1.0]
    assert report(pipeline, "PairProfile").forgotten == 1
    for words in (("forget", file, "customer_at_terminal", "4"), ("features", file, "customer_at_terminal", "4,7,7")):
        wrong = command(*words)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "the entity's key has 2 fields" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "types", "ids"),
    [
        ("4,77", {(int, int)}, ["4,77", '4,"77"', '"4",77', '"4","77"']),
        ("4,77", {(int, str)}, ['4,"77"', "4,77", '"4","77"', '"4",77']),
        ("a,b", {(str, str)}, ['"a","b"']),
        ('"a,b",c', {(str, str)}, ['"a,b","c"']),
        ('"a""b",', {(str, str)}, ['"a""b",""']),
        ("a,b", {str, (str, str)}, ["a,b", '"a","b"']),
        ("a", {str, (str, str)}, ["a"]),
    ],
)
def test_ids_of_a_line_are_what_it_stands_for(text: str, types: set[Any], ids: list[str]) -> None:
    """As the requests declare it first; a number is a text too."""
    assert ids_of(text, types) == ids


@pytest.mark.parametrize("text", ["4", "a,7", "4,7,7", "", '4,"7', '"4"x,7'])
def test_line_that_is_no_id_is_an_error(text: str) -> None:
    """Too few parts, too many, a text where a number is declared, an open quote."""
    with pytest.raises(SetupError, match="is no id"):
        ids_of(text, {(int, int)})


def test_training_set_of_pairs_equals_what_was_served(file: Path) -> None:
    """Requests replayed in order, each an event itself, over ids that are alike; a profile is as of the request."""
    random = np.random.default_rng(7)
    rows = 200
    chosen = [PAIRS[place] for place in random.integers(len(PAIRS), size=rows)]
    requests = pa.table({
        "transaction_id": range(rows),
        "customer_id": [pair[0] for pair in chosen],
        "terminal_id": [pair[1] for pair in chosen],
        "amount": np.round(random.random(rows), 2),
        "time": [START + timedelta(minutes=10 * number) for number in range(rows)],
    })  # fmt: skip
    pq.write_table(requests, file.parent / "payments.parquet")
    pipeline = pipeline_of(file)
    table = tr.dataset(pipeline, requests)
    assert max(table["PairActivity.count_1d"].to_pylist()) > 1
    profile: Any = next(view for view in pipeline.views if view.__name__ == "PairProfile")
    with TestClient(pipeline) as client:
        for place, pair in enumerate(PAIRS):
            client.put(profile, pair, usual=float(place), note="n")
        wires = wire(pipeline).features
        batches = [client.run([msgspec.json.encode(request)]) for request in requests.to_pylist()]
        for name in FEATURES:
            served = [float(reader_of(wires[name]).read(batch)[0]) for batch in batches]
            assert table[name].to_pylist() == served, name
