"""Fills a folder with what the smokes start from: `python prepare.py FOLDER`. Needs the extras offline and package.

Sources, a materialised store, a packaged model, requests with the scores that the model's own framework gives them,
and a model of the benchmark's width.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import xgboost
from sklearn.linear_model import LogisticRegression

from tailrace.release.package import package

HERE: Final = Path(__file__).parent
TAILRACE: Final = Path(sys.executable).with_name("tailrace")
CUSTOMERS: Final = 200
ROWS: Final = 1_000
NAMES: Final = ("amount", "FromParquet.spent", "FromCsv.returned", "FromSql.spent_twice")
BENCH_WIDTH: Final = 24
REQUESTS: Final = 20


def prepare(folder: Path) -> None:
    """Write everything, in order."""
    shutil.copy(HERE / "pipeline.py", folder)
    random = np.random.default_rng(5)
    spent, returned = np.round(random.gamma(4, 20, CUSTOMERS), 2), random.poisson(3, CUSTOMERS)
    write_sources(folder, spent, returned)
    subprocess.run([TAILRACE, "materialize", "pipeline.py"], cwd=folder, check=True, stdout=sys.stderr)

    who, amount = random.integers(0, CUSTOMERS, ROWS), np.round(random.gamma(2, 60, ROWS), 2)
    amount = np.minimum(amount, 1_000)
    x = np.column_stack([amount, spent[who], returned[who], 2 * spent[who]])
    y = random.random(ROWS) < 1 / (1 + np.exp(3 - x[:, 0] / 60 - x[:, 2] / 3))
    rows = pa.table({name: x[:, place] for place, name in enumerate(NAMES)} | {"blocked": y})
    pyarrow.parquet.write_table(rows, folder / "rows.parquet")
    pyarrow.csv.write_csv(rows, folder / "rows.csv")
    model = train(x, y, NAMES)
    package(model, rows, name="smoke", out=folder / "models" / "smoke")
    bodies = [{"customer_id": int(who[place]), "amount": float(amount[place])} for place in range(REQUESTS)]
    write_requests(folder / "requests.json", bodies, model.predict(x[:REQUESTS]))
    boosted, linear = boost(x, y, NAMES), LogisticRegression(max_iter=1_000).fit(pd.DataFrame(x, columns=NAMES), y)
    asked = pd.DataFrame(x[:REQUESTS], columns=NAMES)
    for library, own, scores in (
        ("lightgbm", model, model.predict(asked)),
        ("xgboost", boosted, boosted.inplace_predict(asked.to_numpy(np.float32))),
        ("sklearn", linear, linear.predict_proba(asked)[:, 1]),
    ):
        package(own, rows, name="smoke", out=folder / "models" / library, native=True)
        write_requests(folder / f"requests-{library}.json", bodies, scores)

    wide = random.normal(size=(ROWS, BENCH_WIDTH))
    names = [f"f{place}" for place in range(BENCH_WIDTH)]
    wide_rows = pa.table({name: wide[:, place] for place, name in enumerate(names)})
    package(train(wide, wide[:, 0] > 0, names), wide_rows, name="fraud", out=folder / "models" / "fraud")


def write_requests(file: Path, bodies: list[dict[str, float]], scores: np.ndarray) -> None:
    """Write requests, and what each must score."""
    pairs = zip(bodies, scores.tolist(), strict=True)
    file.write_text(json.dumps([{"body": body, "score": score} for body, score in pairs]))


def write_sources(folder: Path, spent: np.ndarray, returned: np.ndarray) -> None:
    """Write the three sources, of the same customers at the same time."""
    ids, as_of = np.arange(CUSTOMERS), datetime.now(UTC).replace(microsecond=0)
    table = pa.table({"customer_id": ids, "spent": spent, "as_of": pa.array([as_of] * CUSTOMERS)})
    pyarrow.parquet.write_table(table, folder / "customers.parquet")
    lines = [f"{customer},{count},{as_of.isoformat()}\n" for customer, count in zip(ids, returned, strict=True)]
    (folder / "customers.csv").write_text("customer_id,returned,as_of\n" + "".join(lines))
    (folder / "customers.sql").write_text(
        "SELECT customer_id, 2 * spent AS spent_twice, as_of FROM 'customers.parquet'\n"
    )


def train(x: np.ndarray, y: np.ndarray, names: tuple[str, ...] | list[str]) -> lightgbm.Booster:
    """Return a small model of trees."""
    data = lightgbm.Dataset(x, y, feature_name=list(names))
    return lightgbm.train({"objective": "binary", "verbosity": -1, "seed": 5, "num_threads": 1}, data, 20)


def boost(x: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> xgboost.Booster:
    """Return a small model of XGBoost's trees."""
    data = xgboost.DMatrix(x, y, feature_names=list(names))
    return xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 20)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
