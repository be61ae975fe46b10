"""Models of texts: packaged and served where only the C locales are, with scikit-learn's own scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.release.package import package

WORDS = ["HELLO", "world", "Über", "Straße", "ÄRGER", "ärger", "Çok", "güzel", "ЖУК", "жук", "naïve", "日本語", "١٢٣",
         "a", "x2", "don't", "Ǆemal"]  # fmt: skip
OTHERWISE = ["ΣΊΣΥΦΟΣ", "İstanbul"]
"""What Python lower-cases by the letters around it, or to two letters."""

VECTORIZERS: dict[str, Any] = {
    "tf-idf": TfidfVectorizer(),
    "counts of pairs": CountVectorizer(ngram_range=(1, 2)),
    "case kept": TfidfVectorizer(lowercase=False),
    "words of its own": TfidfVectorizer(token_pattern="[^ ]+"),
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
    unseen = pd.DataFrame({"text": ["", "über", "STRASSE straße", "Ärger, ÄRGER!", "a b c", "nothing known", *WORDS]})
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
    assert "lower-cases otherwise" in caught.value.next


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
package(model, data, name="m", out=out)
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
