"""Models of texts: packaged and served where only the C locales are, with scikit-learn's own scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.release.comparison import choose_graph
from tailrace.release.convert import convert
from tailrace.release.original import load_original
from tailrace.release.package import package
from tailrace.release.refusals import NoGraphError
from tailrace.release.table import read_table

WORDS = ["HELLO", "world", "Über", "Straße", "ÄRGER", "ärger", "Çok", "güzel", "ЖУК", "жук", "naïve", "日本語", "١٢٣",
         "a", "x2", "don't", "Ǆemal"]  # fmt: skip
OTHERWISE = ["ΣΊΣΥΦΟΣ", "İstanbul"]
"""What Python lower-cases by the letters around it, or to two letters."""

UNSEEN = ["", "über", "STRASSE straße", "Ärger, ÄRGER!", "a b c", "nothing known", "a\nb", "Ä" * 5_000,
          "cafe\u0301 naı\u0308ve", "🙂 hello \x00 world"]  # fmt: skip

VECTORIZERS: dict[str, Any] = {
    "tf-idf": TfidfVectorizer(),
    "counts of pairs": CountVectorizer(ngram_range=(1, 2)),
    "case kept": TfidfVectorizer(lowercase=False),
    "words of its own": TfidfVectorizer(token_pattern="[^ ]+"),
    "logarithms of counts": TfidfVectorizer(sublinear_tf=True),
    "runs of letters": TfidfVectorizer(analyzer="char", ngram_range=(1, 3)),
    "ASCII words of its own": TfidfVectorizer(token_pattern="[a-zA-Z0-9_]+"),
}


def frame_of(words: list[str]) -> pd.DataFrame:
    """Return texts of some words, each for or against fraud."""
    rng = np.random.default_rng(0)
    weights = {word: rng.normal() for word in words}
    texts = [rng.choice(words, rng.integers(1, 7)).tolist() for _ in range(600)]
    fraud = [int(sum(map(weights.__getitem__, text)) > 0) for text in texts]
    return pd.DataFrame({"text": [" ".join(text) for text in texts], "fraud": fraud})


def fit(vectorizer: Any, frame: pd.DataFrame) -> Any:
    """Train a model on the texts."""
    steps = (ColumnTransformer([("text", vectorizer, "text")]), LogisticRegression(C=100))
    return make_pipeline(*steps).fit(frame[["text"]], frame["fraud"])


@pytest.mark.parametrize("kind", VECTORIZERS)
def test_texts_of_many_scripts_score_as_the_original(kind: str, tmp_path: Path) -> None:
    """Letters with accents, other scripts and capitals make the same words, also in texts not seen before."""
    frame = frame_of(WORDS)
    model = fit(VECTORIZERS[kind], frame)
    package(model, frame, name="m", out=tmp_path / "m")
    unseen = pd.DataFrame({"text": [*UNSEEN, *WORDS]})
    loaded = load_model(tmp_path / "m")
    for rows in (frame, unseen):
        scores = loaded.predict({"text": rows[["text"]].to_numpy(object)})
        np.testing.assert_allclose(scores, model.predict_proba(rows[["text"]])[:, 1], atol=1e-5)


@pytest.mark.parametrize("word", OTHERWISE)
def test_letters_that_onnxruntime_lower_cases_otherwise_are_refused(word: str, tmp_path: Path) -> None:
    """A capital sigma at a word's end and a dotted capital I are refused where the data has them, and told."""
    frame = frame_of([*WORDS, word])
    with pytest.raises(ModelPackageError, match=word) as caught:
        package(fit(TfidfVectorizer(), frame), frame, name="m", out=tmp_path / "m")
    assert "lower-cases İ, and a Σ that ends a word, otherwise" in caught.value.next


@pytest.mark.parametrize(
    ("options", "told"), [({"analyzer": "char_wb"}, "char"), ({"strip_accents": "ascii"}, "strip")]
)
def test_vectorizer_without_form_is_told(options: Any, told: str) -> None:
    """What ONNX has no operator for is left to scikit-learn, or told with what to do instead."""
    frame = frame_of(WORDS)
    with pytest.raises(NoGraphError, match="no form in ONNX") as caught:
        convert(load_original(fit(TfidfVectorizer(**options), frame)), read_table(frame), None)
    assert told in caught.value.next


def test_differing_rows_are_let_through_up_to_a_share_and_counted(tmp_path: Path) -> None:
    """Within the tolerance the rows that ONNX reads otherwise are counted, and some are shown; past it none pass."""
    frame = frame_of(WORDS)
    model = fit(TfidfVectorizer(), frame)
    frame.loc[:2, "text"] = ["İSTANBUL Über", "ΣΊΣΥΦΟΣ", "hello ÇOK İX2"]
    with pytest.raises(ModelPackageError, match=r"of \d of 600 rows otherwise") as caught:
        package(model, frame, name="m", out=tmp_path / "m", text_tolerance=0.0001)
    assert "--text-tolerance 0.00" in caught.value.next
    report = package(model, frame, name="m", out=tmp_path / "m", text_tolerance=0.005)
    expected = model.predict_proba(frame[["text"]])[:, 1]
    scores = load_model(tmp_path / "m").predict({"text": frame[["text"]].to_numpy(object)})
    apart = np.flatnonzero(np.abs(scores - expected) > 1e-5)
    assert 0 < len(apart) <= 3
    metrics, source = report.manifest.metrics, report.manifest.source
    assert metrics["rows_text"] == len(apart)
    assert metrics["difference_text"] == pytest.approx(np.abs(scores - expected).max())
    assert set(report.texts) == set(frame["text"][apart])
    assert source.difference_max is not None
    assert source.difference_max <= 1e-5


def test_difference_that_is_not_of_the_text_is_no_matter_of_tolerance(tmp_path: Path) -> None:
    """A row that stays apart without its text is refused, whatever share of texts may differ."""
    frame = frame_of(WORDS).assign(amount=np.linspace(0, 1, 600))
    steps = [("text", TfidfVectorizer(), "text"), ("rest", "passthrough", ["amount"])]
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(frame[["text", "amount"]], frame["fraud"])
    original = load_original(model)
    (converted,) = convert(original, read_table(frame), None)
    other = LogisticRegression().fit(frame[["amount"]], frame["fraud"])
    score = original.score
    assert score is not None
    wrong = replace(original, score=lambda rows: score(rows) + other.predict_proba(rows[["amount"]])[:, 1])
    with pytest.raises(ModelPackageError, match="600 of 600 rows otherwise than the original; the worst"):
        choose_graph(wrong, [converted], read_table(frame), text_tolerance=1.0)


def test_command_shows_texts_that_were_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that ONNX reads otherwise are told with how far they are apart, and some texts with them."""
    frame = frame_of(WORDS)
    joblib.dump(fit(TfidfVectorizer(), frame), tmp_path / "model.joblib")
    frame.loc[0, "text"] = "HELLO İX2 [bold] Über"
    frame.to_parquet(tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    words = ["package", "model.joblib", "--data", "rows.parquet", "--name", "m", "--out", "m", "--allow-pickle"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ModelPackageError)
    assert "--text-tolerance 0.002" in refused.exception.next
    done = CliRunner().invoke(app, [*words, "--text-tolerance", "0.002"], env={"COLUMNS": "140"})
    assert done.exit_code == 0, done.output
    assert "but for 1 whose text ONNX reads otherwise" in done.stdout
    assert "'HELLO İX2 [bold] Über'" in done.stdout
    assert "rows_text" in done.stdout


PROGRAM = """
import json, locale, sys
import pandas as pd
from tailrace.inference.loading import load_model
from tailrace.release.package import package
for name in ("en_US.UTF-8", "en_US.utf8"):
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        continue
    raise SystemExit("this machine has the locale all the same")
model, data, out = sys.argv[1:]
package(model, data, name="m", out=out, allow_pickle=True)
texts = pd.read_parquet(data)[["text"]].to_numpy(object)
print(json.dumps(load_model(out).predict({"text": texts}).tolist()))
"""


def test_model_of_texts_needs_no_language_pack(tmp_path: Path) -> None:
    """Where glibc finds no locale but its own C ones, as in a slim image, texts are packaged and scored."""
    frame = frame_of(WORDS)
    model = fit(TfidfVectorizer(), frame)
    joblib.dump(model, tmp_path / "model.joblib")
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "locales").mkdir()
    places = [place for place in ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8") if Path(place).is_dir()]
    for place in places:
        (tmp_path / "locales" / Path(place).name).symlink_to(place)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, "model.joblib", "rows.parquet", "m"],
        env={**os.environ, "LOCPATH": str(tmp_path / "locales"), "LC_ALL": "C.UTF-8"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), model.predict_proba(frame[["text"]])[:, 1], atol=1e-5)
