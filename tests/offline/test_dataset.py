"""Training sets: every feature as it would have been served at the request's time, and nothing of the future."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payment_history import FEATURES, PIPELINE, Payments

import tailrace as tr
from tailrace.compile.binding import reader_of
from tailrace.compile.loading import load_pipelines
from tailrace.compile.resolve import wire
from tailrace.errors import SetupError, SourceError
from tailrace.offline.dataset import METADATA, DatasetInfo, write_dataset
from tailrace.offline.request_pages import RequestPages
from tailrace.offline.training_set import TrainingSet
from tailrace.release.package import package
from tailrace.testing import TestClient

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

ADDED = frozenset({"ratio", "Activity.mean_1h", "Activity.spread_1d"})
"""Floats that may be added up in another order."""
DIVIDED = ADDED | {"Activity.mean_5m", "Frauds.share_1d"}
"""And those that SQL divides in another order."""


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """Return payments of three days, with ids of numbers. Read only."""
    return Payments(tmp_path_factory.mktemp("payments"))


@pytest.fixture
def own(tmp_path: Path) -> Payments:
    """Return payments that a test may change."""
    return Payments(tmp_path / "own", rows=200)


def assert_equal(found: Any, expected: dict[str, list[Any]], rounded: frozenset[str] = DIVIDED) -> None:
    """Hold each feature of a table, or of columns, against what it should be. rounded: but for the last digits."""
    for name in FEATURES:
        column = found[name].to_pylist() if isinstance(found, pa.Table) else found[name].tolist()
        if name in rounded:
            np.testing.assert_allclose(column, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            assert column == expected[name], name


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "texts"])
def test_dataset_is_what_sql_of_the_read_rule_gives(text: bool, tmp_path: Path) -> None:
    """Windows, delays, conditions, the own event, as-of joins and defaults, for ids of both types."""
    payments = Payments(tmp_path, text=text)
    requests = payments.labelled()
    table = tr.dataset(payments.pipeline, requests)
    truth = payments.truth(requests)
    assert max(truth["Activity.count_5m"]) > 1
    assert -1 in truth["Frauds.share_1d"]
    assert -1 in truth["Profile.age"]
    assert_equal(table, truth)


def test_dataset_has_the_names_and_order_of_the_pipeline(payments: Payments) -> None:
    """Features first, then the request's other fields, then what goes along; the metadata says which is which."""
    requests = payments.labelled()
    table = tr.dataset(payments.pipeline, requests)
    others = ["transaction_id", "customer_id", "terminal_id", "time", "channel", "label"]
    assert table.column_names == [*FEATURES, *others]
    assert table["label"].to_pylist() == requests["label"].to_pylist()
    info = msgspec.json.decode(table.schema.metadata[METADATA], type=DatasetInfo)
    assert info.features == FEATURES
    assert info.pipeline == "scores"
    assert len(info.schema) == 12


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 60), page_rows=st.integers(1, 70), part_rows=st.integers(1, 70))
@settings(max_examples=12, deadline=None)
def test_dataset_is_the_same_however_it_is_cut(
    seed: int, rows: int, page_rows: int, part_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pages of requests and parts of histories of any size give what SQL gives for the whole."""
    payments = Payments(tmp_path_factory.getbasetemp() / "cut", rows=rows, seed=seed, days=1)
    requests = payments.labelled()
    training_set = TrainingSet(payments.pipeline, part_rows=part_rows)
    pages = RequestPages(requests, payments.pipeline.request, "time", None, page_rows=page_rows)
    with training_set:
        found = [training_set.columns(page) for page in pages.pages()]
    whole = {name: np.concatenate([each[name] for each in found]) for name in FEATURES}
    assert_equal(whole, payments.truth(requests))


def test_future_never_counts(own: Payments) -> None:
    """Whatever comes after a request, or at its time with a later id, leaves it and all earlier ones as they are."""
    requests = own.payments.slice(0, 100)
    before = tr.dataset(own.pipeline, requests)
    last = requests.slice(99).to_pylist()[0]
    top = max(own.payments["transaction_id"].to_pylist())
    later = [
        last | {"transaction_id": top + 1 + each, "time": last["time"] + timedelta(seconds=each), "amount": 9_999.0}
        for each in range(50)
    ]
    own.payments = pa.concat_tables([own.payments, pa.Table.from_pylist(later, own.payments.schema)])
    own.profiles = pa.concat_tables([own.profiles, own.profiles.set_column(1, "as_of", pa.array(
        [last["time"] + timedelta(microseconds=1)] * own.profiles.num_rows, own.profiles.schema.field("as_of").type
    ))])  # fmt: skip
    own.write()
    assert tr.dataset(own.pipeline, requests).equals(before)


def test_time_without_end_is_of_the_future(own: Payments) -> None:
    """Rows of 9999-12-31, which no 64 bits of nanoseconds hold, count for no request, of batch and stream views."""
    requests = own.payments.slice(100)
    before = tr.dataset(own.pipeline, requests)
    never = datetime.fromisoformat("9999-12-31T00:00:00+00:00")
    rows = own.payments.slice(0, 100).to_pylist()
    payments = [row | {"transaction_id": 10**6 + at, "time": never, "amount": 9_999.0} for at, row in enumerate(rows)]
    labels = [row | {"transaction_id": 10**6 + at, "time": never, "is_fraud": 1}
              for at, row in enumerate(own.labels.slice(0, 100).to_pylist())]  # fmt: skip
    profiles = [row | {"as_of": never, "age": 999.0, "tier": 99} for row in own.profiles.to_pylist()]
    own.payments = pa.concat_tables([own.payments, pa.Table.from_pylist(payments, own.payments.schema)])
    own.labels = pa.concat_tables([own.labels, pa.Table.from_pylist(labels, own.labels.schema)])
    own.profiles = pa.concat_tables([own.profiles, pa.Table.from_pylist(profiles, own.profiles.schema)])
    own.write()
    assert tr.dataset(own.pipeline, requests).equals(before)


def test_dataset_equals_what_was_served(tmp_path: Path) -> None:
    """Requests replayed in order, each an event itself, were served with the values that the training set has."""
    payments = Payments(tmp_path, rows=300)
    requests = payments.payments
    table = tr.dataset(payments.pipeline, requests)
    served = replay(payments)
    assert_equal(table, served, ADDED)


def test_request_of_an_entity_that_history_lacks_has_defaults(own: Payments) -> None:
    """And counts itself where a column counts the event that is scored, as it would have been served."""
    first = own.payments.slice(0, 1).to_pylist()[0] | {"customer_id": 999, "terminal_id": 999, "amount": 8.0}
    table = tr.dataset(own.pipeline, pa.Table.from_pylist([first], own.payments.schema))
    (row,) = table.select(list(FEATURES)).to_pylist()
    with TestClient.of_file(own.file) as client:
        batch = client.run([msgspec.json.encode(first)])
        readers = wire(client.plan.pipeline).features
        served = {name: reader_of(each).read(batch).tolist()[0] for name, each in readers.items()}
    assert row == served
    assert row["Activity.count_1d"] == 1
    assert (row["Activity.mean_5m"], row["Profile.age"], row["Frauds.share_1d"]) == (-1.0, -1.0, -1.0)


def replay(payments: Payments) -> dict[str, list[Any]]:
    """Serve the payments in order, their labels and profiles as they come; return the features that were served."""
    profiles = sorted(payments.profiles.to_pylist(), key=lambda row: row["as_of"])
    with TestClient.of_file(payments.file) as client:
        pipeline = client.plan.pipeline
        views = {view.__name__: view for view in pipeline.views}
        readers = {name: reader_of(each) for name, each in wire(pipeline).features.items()}
        served: dict[str, list[Any]] = {name: [] for name in readers}
        rows = zip(payments.payments.to_pylist(), payments.labels.to_pylist(), strict=True)
        for payment, label in rows:
            while profiles and profiles[0]["as_of"] <= payment["time"]:
                row = profiles.pop(0)
                values = {name: row[name] for name in ("age", "city", "tier")}
                client.put(views["Profile"], row["customer_id"], **values)
            batch = client.run([msgspec.json.encode(payment)])
            for name, reader in readers.items():
                served[name].append(reader.read(batch).tolist()[0])
            client.push(views["Frauds"].spec.stream, label)
    return served


def test_dataset_writes_a_file_that_package_takes_as_it_is(own: Payments, tmp_path: Path) -> None:
    """Of a graph whose inputs are named by the data alone, label, time and ids are none."""
    pq.write_table(own.labelled(), tmp_path / "labelled.parquet")
    out = tmp_path / "sets" / "training.parquet"
    report = write_dataset(own.pipeline, tmp_path / "labelled.parquet", out)
    assert report.rows == 200
    assert pq.read_table(out).equals(tr.dataset(own.pipeline, own.labelled()))
    graph = own.folder / "models" / "scores.onnx"
    made = package(graph, out, name="scores", out=tmp_path / "model", target="label")
    assert made.manifest.signature.feature_names == FEATURES
    assert made.manifest.metrics["rows"] == 200
    assert [path.name for path in out.parent.iterdir()] == ["training.parquet"]


def test_error_of_a_feature_is_not_told_as_one_of_the_file(own: Payments, tmp_path: Path) -> None:
    """A function of the user's that fails to read a file of its own says so itself; no draft stays behind."""
    text = own.file.read_text().replace(
        "    return request.amount /", "    open('/missing/rates')\n    return request.amount /"
    )
    own.file.write_text(text)
    out = tmp_path / "sets" / "training.parquet"
    with pytest.raises(FileNotFoundError, match="/missing/rates"):
        write_dataset(own.pipeline, own.labelled(), out)
    assert not list(out.parent.iterdir())


def test_file_that_cannot_be_written_is_told(own: Payments, tmp_path: Path) -> None:
    """A folder is in its place: it says which, and no draft stays behind."""
    out = tmp_path / "sets" / "training.parquet"
    out.mkdir(parents=True)
    with pytest.raises(SourceError, match="cannot be written"):
        write_dataset(own.pipeline, own.labelled(), out)
    assert [path.name for path in out.parent.iterdir()] == ["training.parquet"]


def test_dataset_of_a_csv_and_of_a_frame_is_that_of_the_table(own: Payments, tmp_path: Path) -> None:
    """Wherever the requests are, the same comes out."""
    requests = own.labelled()
    expected = tr.dataset(own.pipeline, requests).select(list(FEATURES))
    pacsv.write_csv(requests, tmp_path / "labelled.csv")
    for given_as in (tmp_path / "labelled.csv", str(tmp_path / "labelled.csv"), requests.to_pandas()):
        assert tr.dataset(own.pipeline, given_as).select(list(FEATURES)).equals(expected)


def test_field_with_a_default_may_be_missing(own: Payments) -> None:
    """It is as if callers had left it out."""
    requests = own.labelled()
    with_default = requests.set_column(5, "channel", pa.array(["web"] * requests.num_rows))
    found = tr.dataset(own.pipeline, requests.drop_columns(["channel"]))
    assert found.select(list(FEATURES)).equals(tr.dataset(own.pipeline, with_default).select(list(FEATURES)))
    assert found["channel"].to_pylist() == ["web"] * 200


def test_request_without_a_value_is_left_out_and_counted(own: Payments, tmp_path: Path) -> None:
    """No caller could have sent it. The others are as they would be without it."""
    requests = own.labelled()
    amounts = requests["amount"].to_pylist()
    amounts[3] = None
    place = requests.column_names.index("amount")
    pq.write_table(requests.set_column(place, "amount", pa.array(amounts)), tmp_path / "requests.parquet")
    report = write_dataset(own.pipeline, tmp_path / "requests.parquet", tmp_path / "out.parquet")
    assert (report.rows, report.left_out) == (199, 1)


def test_event_that_is_there_twice_counts_once(own: Payments) -> None:
    """As while serving: an id is counted when it comes first. One without an id, or with a bad value, is left out."""
    requests = own.labelled()
    before = tr.dataset(own.pipeline, requests)
    strange = own.payments.slice(0, 2).to_pylist()
    strange[0]["transaction_id"] = None
    strange[1] |= {"transaction_id": 10**9, "amount": None}
    extra = pa.Table.from_pylist(strange, own.payments.schema)
    own.payments = pa.concat_tables([own.payments, own.payments.slice(10, 20), extra])
    own.write()
    assert tr.dataset(own.pipeline, requests).equals(before)
    with TrainingSet(own.pipeline) as training_set:
        counts = training_set.counts()["Activity"]
    assert (counts.rows, counts.bad, counts.dropped) == (200, 0, 22)


def test_view_without_a_time_column_is_taken_as_it_is_and_said(own: Payments) -> None:
    """Its rows count for every request, so that a reader of the table must know."""
    own.file.write_text(own.file.read_text().replace('"profile.parquet", time="as_of"', '"profile.parquet"'))
    own.profiles = own.profiles.slice(0, 1).drop_columns(["as_of"])
    own.write()
    with pytest.warns(UserWarning, match="Profile has no time column"):
        table = tr.dataset(own.pipeline, own.labelled())
    ages = {(row["customer_id"], row["Profile.age"]) for row in table.to_pylist()}
    assert ages == {(0, own.profiles["age"][0].as_py()), *((each, -1.0) for each in range(1, 12))}


def test_times_in_seconds_are_those_of_datetimes(own: Payments) -> None:
    """A stream's and a request's time may be a number of seconds since the epoch."""
    requests = own.labelled()
    expected = tr.dataset(own.pipeline, requests).select(list(FEATURES))
    text = own.file.read_text()
    own.file.write_text(text.replace("    time: datetime", "    time: float"))
    requests, own.payments, own.labels = (_in_seconds(table) for table in (requests, own.payments, own.labels))
    own.write()
    assert tr.dataset(own.pipeline, requests).select(list(FEATURES)).equals(expected)


def test_history_in_a_csv_is_that_of_a_parquet_file(own: Payments) -> None:
    """Its times too, as seconds or as dates."""
    requests = own.labelled()
    expected = tr.dataset(own.pipeline, requests).select(list(FEATURES))
    own.file.write_text(own.file.read_text().replace('tr.Parquet("labels.parquet")', 'tr.CSV("labels.csv")'))
    for labels in (own.labels, _in_seconds(own.labels)):
        pacsv.write_csv(labels, own.folder / "labels.csv")
        assert tr.dataset(own.pipeline, requests).select(list(FEATURES)).equals(expected)


def _in_seconds(table: pa.Table) -> pa.Table:
    seconds = [moment.timestamp() for moment in table["time"].to_pylist()]
    return table.set_column(table.column_names.index("time"), "time", pa.array(seconds))


LIST = '''
"""Offers ranked for a customer."""
from datetime import datetime
import numpy as np
import tailrace as tr

class Offers(tr.Request):
    customer_id: int
    offer_id: list[int]
    time: datetime

class Ranked(tr.Response):
    score: list[float]

class Offer(tr.BatchFeatureView):
    entity = tr.Entity("offer", key="offer_id")
    source = tr.Parquet("offers.parquet", time="as_of")
    price: float = -1.0

class Customer(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("customers.parquet", time="as_of")
    budget: float = -1.0

@tr.on_demand
def fit(offer: Offer, customer: Customer) -> np.ndarray:
    return customer.budget - offer.price

ranking = tr.Pipeline(
    name="ranking", request=Offers, response=Ranked, features=[Offer, Customer, fit], model=tr.Model("ranking"),
    budget=tr.Budget("50ms"), time="time",
)
'''


def test_list_valued_key_makes_a_row_for_each_item(tmp_path: Path) -> None:
    """Columns of lists go along item by item, the others are repeated; of items without a list nothing changes."""
    (tmp_path / "pipeline.py").write_text(LIST)
    at = datetime.fromisoformat("2025-01-01T00:00:00Z")
    pq.write_table(pa.table({"offer_id": [1, 2], "price": [5.0, 7.0], "as_of": [at, at]}), tmp_path / "offers.parquet")
    pq.write_table(pa.table({"customer_id": [9], "budget": [10.0], "as_of": [at]}), tmp_path / "customers.parquet")
    (pipeline,) = load_pipelines(tmp_path / "pipeline.py")
    requests = pa.table({
        "customer_id": [9, 8], "offer_id": [[1, 2, 3], [2]], "time": [at, at], "taken": [[0, 1, 0], [1]],
        "day": ["mon", "tue"],
    })  # fmt: skip
    table = tr.dataset(pipeline, requests)
    assert table["Offer.price"].to_pylist() == [5.0, 7.0, -1.0, 7.0]
    assert table["fit"].to_pylist() == [5.0, 3.0, 11.0, -8.0]
    assert table["taken"].to_pylist() == [0, 1, 0, 1]
    assert table["day"].to_pylist() == ["mon", "mon", "mon", "tue"]
    flat = table.select(["customer_id", "offer_id", "time", "taken"])
    assert tr.dataset(pipeline, flat)["fit"].to_pylist() == [5.0, 3.0, 11.0, -8.0]


def test_pipeline_without_time_is_an_error(own: Payments) -> None:
    """Nothing could be looked up as of a time that nobody names."""
    own.file.write_text(own.file.read_text().replace('    time="time",\n    record_requests=True,\n', ""))
    with pytest.raises(SetupError, match="names no field that says when a request happened"):
        tr.dataset(own.pipeline, own.labelled())


def test_stream_without_a_history_is_an_error(own: Payments) -> None:
    """It says which stream."""
    own.file.write_text(PIPELINE.format(id="int", key="int").replace(', source=tr.Parquet("labels.parquet")', ""))
    with pytest.raises(SetupError, match="stream 'labels' has no history"):
        tr.dataset(own.pipeline, own.labelled())


def test_requests_that_cannot_be_are_errors(own: Payments, tmp_path: Path) -> None:
    """A missing column, a column of another type, one that the pipeline computes, no rows, no file."""
    requests = own.labelled()
    cases: list[tuple[Any, str]] = [
        (requests.rename_columns({"amount": "amuont"}), "no column 'amount'"),
        (requests.set_column(3, "amount", pa.array(["x"] * 200)), "the column 'amount', string, cannot be"),
        (requests.set_column(4, "time", requests["time"].cast(pa.int64())), "the column 'time', int64, cannot be"),
        (requests.append_column("ratio", requests["amount"]), "'ratio', which the pipeline computes"),
        (requests.slice(0, 0), "have no rows"),
        (tmp_path / "absent.parquet", "no such file"),
        ([1, 2], "the requests are a list"),
    ]
    for wrong, told in cases:
        with pytest.raises(SourceError, match=told):
            tr.dataset(own.pipeline, wrong)


def test_import_of_tailrace_loads_nothing_of_training_sets() -> None:
    """pyarrow, DuckDB and the compiler come with the first set."""
    heavy = "{'pyarrow', 'duckdb', 'ibis', 'pandas', 'tailrace.compile', 'tailrace.offline.training_set'}"
    code = f"import sys, tailrace; print(sorted({heavy} & sys.modules.keys()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
