"""Moderation as it is served: real comments through TF-IDF and a logistic regression, trained by scikit-learn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tailrace.errors import InvalidRequestError
from tailrace.release.package import package
from tailrace.testing import TestClient

PIPELINE = Path(__file__).parent / "pipelines" / "moderation.py"
PHRASES = {
    "fine": ["thanks for the recipe", "I like this opening", "grüße aus Köln", "good article"],
    "insult": ["you are an idiot", "what a stupid move", "shut up, fool"],
    "spam": ["FREE money here", "click this link now", "cheap pills ☎ 123"],
}
FILLERS = ["well", "please", "today", "my friend", "naïve", "日本語", "ÄRGER"]


def comments(rows: int, seed: int) -> pd.DataFrame:
    """Return comments made of phrases of each kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(PHRASES), rows)
    texts = [" ".join([rng.choice(FILLERS), rng.choice(PHRASES[kind]), rng.choice(FILLERS)]) for kind in kinds]
    return pd.DataFrame({"text": texts, "community": rng.choice(["cooking", "chess"], rows), "kind": kinds})


@pytest.fixture(scope="module")
def model() -> Any:
    """Train the classifier on words and on runs of letters."""
    frame = comments(300, seed=1)
    steps = [
        ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), "text"),
        ("letters", TfidfVectorizer(analyzer="char", ngram_range=(2, 3)), "text"),
        ("community", OneHotEncoder(handle_unknown="ignore"), ["community"]),
    ]
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression(C=10, max_iter=500))
    return model.fit(frame[["text", "community"]], frame["kind"])


@pytest.fixture(scope="module")
def client(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Yield a client of the pipeline, beside the packaged model."""
    folder = tmp_path_factory.mktemp("moderation")
    shutil.copy(PIPELINE, folder / "moderation.py")
    package(model, comments(200, seed=2), name="moderation", out=folder / "models" / "moderation", target="kind")
    with TestClient.of_file(folder / "moderation.py") as client:
        yield client


def ask(client: TestClient, text: str, community: str = "chess") -> dict[str, Any]:
    """Return the answer to one comment."""
    answer: dict[str, Any] = client.predict({"comment_id": 7, "text": text, "community": community})
    return answer


@pytest.mark.parametrize(
    "text",
    ["what a stupid move, FOOL", "", "FREE FREE money ☎", "grüße", "unheard-of words", "cafe\u0301 🙂", "x" * 9_000,
     "a\nb", "thanks my friend"],
)  # fmt: skip
@pytest.mark.parametrize("community", ["chess", "news"])
def test_comment_is_judged_as_by_the_original(client: TestClient, model: Any, text: str, community: str) -> None:
    """Known and unknown words, no words, long ones and other scripts; `news` was no community of training."""
    answer = ask(client, text, community)
    expected = model.predict_proba(pd.DataFrame({"text": [text], "community": [community]}))[0]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["decision"] == model.classes_[expected.argmax()]
    assert answer["comment_id"] == 7


def test_comments_of_one_batch_do_not_mix(client: TestClient, model: Any) -> None:
    """Many comments are tokenised together, each for itself."""
    frame = comments(40, seed=3)
    bodies = [
        {"comment_id": place, "text": row.text, "community": row.community}
        for place, row in enumerate(frame.itertuples())
    ]
    answers: Any = client.predict(bodies)
    expected = model.predict_proba(frame[["text", "community"]])
    np.testing.assert_allclose([answer["probabilities"] for answer in answers], expected, atol=1e-5)


def test_text_that_is_too_long_is_refused(client: TestClient) -> None:
    """The declared length bounds what is tokenised."""
    with pytest.raises(InvalidRequestError):
        ask(client, "x" * 10_001)
