"""The Fraud Detection Handbook's baseline with features from Tailrace: training sets, XGBoost, its three figures.

The handbook (Le Borgne, Siblini, Lebichot, Bontempi: "Reproducible machine learning for credit card fraud detection")
simulates card payments, and publishes how well XGBoost finds the frauds among them. Here its fifteen features are
declared (bench/handbook/pipeline.py) and `tr.dataset` makes them; beside that, plain SQL makes them as the handbook
defines them, and the same model is trained on those. The transactions are the handbook's own; CARD_TRANSACTIONS names
their file, if it does not lie in ../shared/data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from machine import BenchError
from part import Line, Part, Session
from peers import HERE, ROOT, WORKPLACE

FOLDER: Final = HERE / "handbook"
BUILT: Final = WORKPLACE / "handbook" / "transactions.parquet"
VARIABLE: Final = "CARD_TRANSACTIONS"
FILE: Final = "card-transactions.parquet"

TRAINED: Final = date(2018, 7, 11), date(2018, 7, 18)
TESTED: Final = date(2018, 7, 25), date(2018, 8, 1)
DELAY_DAYS: Final = 7
"""Until a fraud is known."""
CARDS: Final = 100
"""That can be looked into on a day."""

PUBLISHED: Final[Figures] = {"roc_auc": 0.862, "average_precision": 0.639, "card_precision_100": 0.273}
"""XGBoost in chapter 3, trained on 2018-07-25 to 31 and tested on 2018-08-08 to 14."""
NAMES: Final = {"roc_auc": "ROC AUC", "average_precision": "average precision",
                "card_precision_100": f"card precision@{CARDS}"}  # fmt: skip
HANDBOOK_HOPS: Final = {"hop_1d_s": 1, "hop_7d_s": 1, "hop_30d_s": 1, "open_s": 1}
"""For bench/handbook/features.sql: windows that begin at any second, as pandas has them."""


def find_transactions() -> Path | None:
    """Return the file of the handbook's transactions; None where it is absent."""
    path = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "data" / FILE)
    return path if path.is_file() else None


def measure(session: Session) -> Figures:
    """Return the figures of both ways to the features; none where the transactions are absent."""
    session.tell("handbook: finding the transactions")
    source = find_transactions()
    if source is None:
        session.notes.append(f"handbook: left out, since {FILE} is absent: {VARIABLE}=FILE names it.")
        return {}
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, BUILT)
    session.tell("handbook: making the training set")
    declared = make_dataset(FOLDER / "pipeline.py", BUILT, TRAINED[0], TESTED[1])
    session.tell("handbook: training")
    figures: Figures = {**score(declared), "published": PUBLISHED}
    session.tell("handbook: training by histograms")
    figures["by_histograms"] = score(declared, "hist")
    session.tell("handbook: the same features by SQL")
    exact = replace_windows(declared, compute_windows(BUILT, TRAINED[0], TESTED[1], HANDBOOK_HOPS))
    session.tell("handbook: training on those")
    return {"handbook": {**figures, "exact_windows": score(exact)}}


def make_dataset(file: Path, transactions: Path, begin: date, end: date) -> Any:
    """Return the payments of some days with their features and labels, as a pyarrow table in the order of their ids.

    file: of the pipeline. transactions: where its streams read them.
    """
    import tailrace as tr
    from tailrace.compile.loading import load_pipelines

    (pipeline,) = load_pipelines(file)
    query = (
        "SELECT TRANSACTION_ID AS transaction_id, CUSTOMER_ID AS customer_id, TERMINAL_ID AS terminal_id, "
        "TX_AMOUNT::DOUBLE AS amount, TX_DATETIME::TIMESTAMP AS time, TX_DATETIME::DATE AS day, TX_FRAUD AS is_fraud "
        "FROM transactions WHERE TX_DATETIME >= $begin AND TX_DATETIME < $end ORDER BY transaction_id"
    )
    return tr.dataset(pipeline, query_transactions(transactions, query, {"begin": begin, "end": end}))


def compute_windows(transactions: Path, begin: date, end: date, hops: Mapping[str, int]) -> Any:
    """Return the windows of the payments of some days by plain SQL, as a pyarrow table in the order of their ids."""
    asked = {"from_s": seconds_of(begin), "until_s": seconds_of(end), **hops}
    return query_transactions(transactions, (FOLDER / "features.sql").read_text(), asked)


def query_transactions(transactions: Path, query: str, parameters: Mapping[str, Any]) -> Any:
    """Return what DuckDB answers, as a pyarrow table."""
    import duckdb

    with duckdb.connect() as database:
        database.from_parquet(str(transactions)).create_view("transactions")
        return database.sql(query, params=dict(parameters)).to_arrow_table()


def seconds_of(day: date) -> int:
    """Return when a day begins, since the epoch."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def replace_windows(table: Any, windows: Any) -> Any:
    """Return a training set with other windows. Raises BenchError where they are not of the same payments."""
    if not table["transaction_id"].combine_chunks().equals(windows["transaction_id"].cast("int64").combine_chunks()):
        raise BenchError("handbook: the windows by SQL are of other payments than the training set's")
    for name in windows.column_names[1:]:
        table = table.set_column(table.column_names.index(name), name, windows[name])
    return table


def score(table: Any, tree_method: str = "exact") -> Figures:
    """Return the three figures of a model that is trained and tested on a training set's two weeks.

    It has XGBoost's defaults, as the handbook's has: 100 trees of depth 6. tree_method: "exact", since that was the
    default for so few rows when the handbook was written; "hist" is the one of today.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score
    from xgboost import XGBClassifier

    x, is_fraud, card, day = read_columns(table)
    trained, tested = (is_between(day, *days) for days in (TRAINED, TESTED))
    tested &= ~is_known(card, day, is_fraud)
    model = XGBClassifier(random_state=0, tree_method=tree_method, n_jobs=1)  # one thread adds up in one order
    model.fit(x[trained], is_fraud[trained])
    scores = model.predict_proba(x[tested])[:, 1]
    return {
        "roc_auc": round(float(roc_auc_score(is_fraud[tested], scores)), 3),
        "average_precision": round(float(average_precision_score(is_fraud[tested], scores)), 3),
        "card_precision_100": round(card_precision(scores, is_fraud[tested], card[tested], day[tested]), 3),
    }


def read_columns(
    table: Any,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.datetime64]]:
    """Return the features, (rows, 15), and of each row whether it is a fraud, its card, and its day."""
    names = table.column_names[: table.column_names.index("transaction_id")]
    x = np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
    is_fraud = table["is_fraud"].to_numpy().astype(np.bool_)
    return x, is_fraud, table["customer_id"].to_numpy(), table["day"].to_numpy().astype("datetime64[D]")


def is_between(day: NDArray[np.datetime64], begin: date, end: date) -> NDArray[np.bool_]:
    """Say of each row whether it is of some days; `end` is not."""
    return (day >= np.datetime64(begin)) & (day < np.datetime64(end))


def is_known(card: NDArray[np.int64], day: NDArray[np.datetime64], is_fraud: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say of each row whether its card was known as compromised when its day began: by a fraud more than a week old.

    Such cards are blocked, and no model is asked.
    """
    cards, place = np.unique(card, return_inverse=True)
    first = np.full(len(cards), np.datetime64("9999-12-31"))
    np.minimum.at(first, place[is_fraud], day[is_fraud])
    return first[place] + DELAY_DAYS < day


def card_precision(
    scores: NDArray[Any], is_fraud: NDArray[np.bool_], card: NDArray[np.int64], day: NDArray[np.datetime64],
    cards_max: int = CARDS,
) -> float:  # fmt: skip
    """Return the share of compromised cards among the most suspicious of each day, as the mean of the days.

    A card is as suspicious as its most suspicious payment, and compromised where one of its payments of that day is a
    fraud. One that is found is looked into no more on later days. Days with fewer cards count as if all were asked for.
    """
    found: set[int] = set()
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~np.isin(card, list(found)))
        cards, place = np.unique(card[rows], return_inverse=True)
        worst, compromised = np.full(len(cards), -np.inf), np.zeros(len(cards), np.bool_)
        np.maximum.at(worst, place, scores[rows])
        np.logical_or.at(compromised, place, is_fraud[rows])
        chosen = np.argsort(-worst, kind="stable")[:cards_max]
        hits = cards[chosen][compromised[chosen]]
        found.update(hits.tolist())
        shares.append(len(hits) / cards_max)
    return float(np.mean(shares))


def lines(figures: Figures) -> Sequence[Line]:
    """Return the lines of the table: each figure, and below it those it is to be read beside."""
    told = figures.get("handbook", {})
    beside = {"published": "published, of later weeks", "exact_windows": "windows as the handbook has them, by SQL",
              "by_histograms": "trees by histograms, today's default"}  # fmt: skip
    shown = []
    for key, name in NAMES.items():
        shown.append(Line(name, f"{told[key]:.3f}" if told else None))
        for group, about in beside.items():
            found = told.get(group)
            shown.append(Line(f"  {about}", f"{found[key]:.3f}" if found else None))
    return shown


PART: Final = Part(
    name="handbook",
    about="XGBoost on the features of the Fraud Detection Handbook, made by tr.dataset",
    caveats=(
        "handbook: trained on 2018-07-11 to 17 and tested on 2018-07-25 to 31; the published figures are of two weeks "
        "later. So they are no bound: the handbook's own windows, on the same weeks, stand beside.",
    ),
    steps=lambda session: 6,
    measure=measure,
    lines=lines,
)
