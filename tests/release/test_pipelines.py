"""scikit-learn pipelines on raw columns: packaged as one graph that encodes as the original does, unseen values too."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import Vocabulary
from tailrace.inference.packaged import PackagedModel
from tailrace.release import encoders
from tailrace.release.encoders import read_codes
from tailrace.release.package import package

pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")

ROWS = 400
COUNTRIES = ["DE", "FR", "Türkiye", "İ", "日本", "cafe\u0301"]
SHOPS = ["a", "b", "nan", "None"]
UNSEEN = ["zz", "DE ", "de", "Σ", "café", "x" * 5_000]
"""No category of training; "café" is written with one letter fewer than the one there."""


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return payments: texts of two kinds, one with nulls, whole numbers, halves with nulls, and outcomes."""
    rng = np.random.default_rng(3)
    country, shop, code = (rng.choice(values, ROWS) for values in (COUNTRIES, SHOPS, np.arange(5)))
    half = np.where(rng.random(ROWS) < 0.2, np.nan, rng.integers(0, 4, ROWS) / 2)
    signal = (country == "DE") * 1.5 + (shop == "b") - (code == 2) + np.nan_to_num(half, nan=2.0)
    frame = pd.DataFrame({"country": country, "shop": shop, "code": code, "half": half})
    frame["city"] = pd.Series(country).where(rng.random(ROWS) < 0.8)
    frame["amount"] = np.round(rng.lognormal(1, 1, ROWS), 2)
    frame["fraud"] = (signal + rng.normal(size=ROWS) > 1.2).astype(int)
    frame["kind"] = np.digitize(signal, [0.5, 1.8])
    return frame


def with_numbers(encoder: Any, *names: str) -> ColumnTransformer:
    """Return an encoder of some columns beside an amount, filled and scaled."""
    amount = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return ColumnTransformer([("c", encoder, list(names)), ("n", amount, ["amount"])])


def known(**options: Any) -> OrdinalEncoder:
    """Return an encoder that takes what it has not seen."""
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, **options)


def fill(strategy: str, **options: Any) -> Any:
    """Return an imputer before one-hot codes."""
    return make_pipeline(SimpleImputer(strategy=strategy, **options), OneHotEncoder(handle_unknown="ignore"))


ENCODED: dict[str, Callable[[], ColumnTransformer]] = {
    "one-hot": lambda: with_numbers(OneHotEncoder(handle_unknown="ignore"), "country", "shop"),
    "one-hot, the first dropped": lambda: with_numbers(
        OneHotEncoder(handle_unknown="ignore", drop="first"), "country", "shop"
    ),
    "one-hot, rare ones together": lambda: with_numbers(
        OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3), "country", "shop", "code"
    ),
    "one-hot, nulls known": lambda: with_numbers(OneHotEncoder(handle_unknown="ignore"), "city", "half"),
    "one-hot, whole numbers": lambda: with_numbers(OneHotEncoder(handle_unknown="ignore"), "code"),
    "ordinal": lambda: with_numbers(known(), "country", "shop"),
    "ordinal, nulls known": lambda: with_numbers(known(encoded_missing_value=-7), "city", "half"),
    "ordinal, rare ones together": lambda: with_numbers(known(min_frequency=0.2), "country", "shop"),
    "target": lambda: with_numbers(TargetEncoder(), "country", "shop", "code"),
    "target, nulls known": lambda: with_numbers(TargetEncoder(), "city"),
    "target, fractions": lambda: with_numbers(TargetEncoder(), "half"),
    "nulls filled with a word": lambda: with_numbers(fill("constant", fill_value="none"), "city"),
    "nulls filled with the most frequent": lambda: with_numbers(fill("most_frequent"), "city"),
}


QUICK = {"one-hot, nulls known", "one-hot, rare ones together", "ordinal, nulls known", "target",
         "nulls filled with a word"}  # fmt: skip
"""What is not among the slow tests."""


def feed(model: PackagedModel, rows: pd.DataFrame) -> dict[str, Any]:
    """Return rows as a server feeds them: "" for a null text."""
    feeds = {}
    for spec in model.signature.inputs:
        columns = [rows[name] for name in spec.features]
        if spec.dtype == "string":
            columns = [column.astype(object).where(column.notna(), "") for column in columns]
        feeds[spec.name] = np.ascontiguousarray(np.column_stack(columns).astype(spec.numpy_dtype))
    return feeds


def unseen_rows(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return rows of which one column at a time holds what training had not seen."""
    parts = []
    for name in names:
        part = frame.head(len(UNSEEN)).copy()
        part[name] = UNSEEN if part[name].dtype.kind not in "if" else [9, -1, 77, 100, 5, 6]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in ENCODED]
)
def test_encoder_scores_as_the_original(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Each encoder gives the original's scores for the data, its nulls, and categories that training had not seen."""
    names = [name for _, _, columns in ENCODED[kind]().transformers for name in columns]
    model = make_pipeline(ENCODED[kind](), LogisticRegression(max_iter=500)).fit(frame[names], frame["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert report.manifest.signature.feature_names == tuple(names)
    for rows in (frame, unseen_rows(frame, names[:-1])):
        scores = loaded.predict(feed(loaded, rows))
        np.testing.assert_allclose(scores, model.predict_proba(rows[names])[:, 1], atol=1e-6)


def test_target_encoder_of_three_classes_scores_as_the_original(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A category is encoded by its share of each class."""
    names = ["country", "shop", "amount"]
    encoder = with_numbers(TargetEncoder(), "country", "shop")
    model = make_pipeline(encoder, LogisticRegression(max_iter=500)).fit(frame[names], frame["kind"])
    package(model, frame, name="m", out=tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    for rows in (frame, unseen_rows(frame, names[:-1])):
        scores = loaded.predict(feed(loaded, rows))
        np.testing.assert_allclose(scores, model.predict_proba(rows[names]), atol=1e-6)


def test_encoder_that_was_read_still_gives_a_table(frame: pd.DataFrame) -> None:
    """What is asked of a copy is not set in the model, which goes on in its maker's process."""
    encoder = OneHotEncoder(sparse_output=False).set_output(transform="pandas").fit(frame[["country"]])
    before = encoder.transform(frame[["country"]])
    read_codes(encoder, 0)
    pd.testing.assert_frame_equal(encoder.transform(frame[["country"]]), before)


@pytest.mark.parametrize("encoder", [OneHotEncoder(), OrdinalEncoder()])
def test_category_that_the_encoder_refuses_has_no_score(encoder: Any, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Where the original raises for a category, the graph fails the row too: it never takes it for another one."""
    names = ["country", "amount"]
    model = make_pipeline(with_numbers(encoder, "country"), LogisticRegression(max_iter=500))
    manifest = package(model.fit(frame[names], frame["fraud"]), frame, name="m", out=tmp_path / "m").manifest
    assert manifest.vocabularies["country"].refuses
    loaded = load_model(tmp_path / "m")
    with pytest.raises(Exception, match="out of data bounds"):
        loaded.predict(feed(loaded, frame.head(3).assign(country=["DE", "atlantis", "FR"])))
    assert np.isfinite(loaded.predict(feed(loaded, frame.head(3)))).all()


def test_words_for_null_are_no_nulls(frame: pd.DataFrame, tmp_path: Path) -> None:
    """The text "nan" is a category of its own beside a null, in the graph as in the original."""
    rows = frame.assign(shop=pd.Series(frame["shop"]).where(frame.index % 3 != 0))
    names = ["shop", "amount"]
    encoder = with_numbers(known(encoded_missing_value=-2), "shop")
    model = make_pipeline(encoder, LogisticRegression(max_iter=500))
    model.fit(rows[names], rows["fraud"])
    manifest = package(model, rows, name="m", out=tmp_path / "m").manifest
    assert manifest.vocabularies == {"shop": Vocabulary(("None", "a", "b", "nan"), null=True)}
    loaded = load_model(tmp_path / "m")
    np.testing.assert_allclose(loaded.predict(feed(loaded, rows)), model.predict_proba(rows[names])[:, 1], atol=1e-6)


def test_nulls_beside_empty_texts_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Serving has "" for both: a model that tells them apart is refused, and what to do is told."""
    rows = frame.assign(city=frame["city"].mask(frame["city"] == "DE", ""))
    model = make_pipeline(with_numbers(OneHotEncoder(), "city"), LogisticRegression(max_iter=500))
    model.fit(rows[["city", "amount"]], rows["fraud"])
    with pytest.raises(ModelPackageError) as caught:
        package(model, rows, name="m", out=tmp_path / "m")
    assert 'the column city holds nulls and ""' in caught.value.next


def test_manifest_names_a_bounded_vocabulary(tmp_path: Path) -> None:
    """Of many categories the first thousand are named, and the others counted."""
    words = [f"w{place:04}" for place in range(1_200)] + ["x" * 300]
    frame = pd.DataFrame({"word": words, "amount": np.linspace(0, 1, len(words)), "fraud": np.arange(len(words)) % 2})
    model = make_pipeline(with_numbers(known(), "word"), LogisticRegression(max_iter=500))
    manifest = package(
        model.fit(frame[["word", "amount"]], frame["fraud"]), frame, name="m", out=tmp_path / "m"
    ).manifest
    vocabulary = manifest.vocabularies["word"]
    assert vocabulary.categories == tuple(words[:1_000])
    assert (vocabulary.others, vocabulary.null, vocabulary.refuses) == (201, False, False)


def test_null_that_is_filled_is_scored_beside_one_that_is_not(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Where the original fills one column and refuses nulls in another, a null in the first alone gets its score."""
    names = ["half", "amount"]
    steps = [("filled", SimpleImputer(strategy="median"), ["half"]), ("not", StandardScaler(), ["amount"])]
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(frame[names], frame["fraud"])
    source = package(model, frame, name="m", out=tmp_path / "m").manifest.source
    assert (source.missing, source.unfilled) == (False, ("amount",))
    loaded = load_model(tmp_path / "m")
    rows = frame.head(4).assign(half=[np.nan, 0.5, np.nan, 1.0], amount=[1.0, 2.0, np.nan, np.nan])
    scores = loaded.predict(feed(loaded, rows))
    assert np.isnan(scores).tolist() == [False, False, True, True]
    np.testing.assert_allclose(scores[:2], model.predict_proba(rows[names][:2])[:, 1], atol=1e-6)


@pytest.mark.parametrize("encoder", [OneHotEncoder(handle_unknown="ignore"), known()])
def test_unseen_number_is_no_known_one(encoder: Any, tmp_path: Path) -> None:
    """Where one more than the largest category is the same number, one that training had not seen is still another."""
    numbers = np.repeat([1e16, 2e16], 100)
    frame = pd.DataFrame({"id": numbers, "amount": np.linspace(0, 1, 200), "fraud": (numbers > 1e16).astype(int)})
    model = make_pipeline(with_numbers(encoder, "id"), LogisticRegression()).fit(
        frame[["id", "amount"]], frame["fraud"]
    )
    golden = package(model, frame, name="m", out=tmp_path / "m").manifest.golden.inputs
    loaded = load_model(tmp_path / "m")
    rows = frame.head(3).assign(id=[3e16, 2e16, 5.0])
    np.testing.assert_allclose(
        loaded.predict(feed(loaded, rows)), model.predict_proba(rows[["id", "amount"]])[:, 1], atol=1e-6
    )
    assert any(float(row[0] or 0) > 2e16 for cells in golden.values() for row in cells), "it is a golden row as well"


def test_conversion_that_takes_an_unseen_category_for_a_known_one_is_refused(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data holds no category that training had not seen, so one is made up and compared."""
    monkeypatch.setattr(encoders, "_find_unseen", lambda categories: categories[:1])
    names = ["country", "amount"]
    model = make_pipeline(with_numbers(known(), "country"), LogisticRegression()).fit(frame[names], frame["fraud"])
    with pytest.raises(ModelPackageError, match="with an unseen category in country otherwise"):
        package(model, frame, name="m", out=tmp_path / "m")


@pytest.mark.parametrize("sparse", [True, False])
def test_one_hot_codes_of_many_categories_take_little_memory(sparse: bool) -> None:
    """The codes of 3,000 categories are their places: as a table of zeros they would take 72 MB, again and again."""
    words = np.array([f"w{place:05}" for place in range(3_000)], object)[:, np.newaxis]
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=sparse, drop="first").fit(words)
    tracemalloc.start()
    codes = read_codes(encoder, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    assert codes.codes[:, 0].tolist() == list(range(-1, 2_999))
    assert codes.width == 2_999
