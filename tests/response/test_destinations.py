"""Where results go: what cannot be meant is refused where it is declared, and no secret is shown."""

from __future__ import annotations

from typing import Any

import pytest

import tailrace as tr
from tailrace.errors import CompileError
from tailrace.response.destinations import RedisStream, Webhook

WEBHOOK: dict[str, Any] = {"url": "https://a.example/x", "secret_env": "A"}
STREAM: dict[str, Any] = {"url": "redis://:hidden@a:6379/0", "key": "results", "secret_file": "secret"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "ftp://a/x"}, "url is no address"),
        ({"url": "https://"}, "url is no address"),
        ({"url": "https://a:99999/"}, "url is no address"),
        ({"url": 7}, "url is no address"),
        ({"url": "https://u:hidden@a/x"}, "more than host and path"),
        ({"url": "https://a/x?token=hidden"}, "more than host and path"),
        ({"secret_env": None}, "one of secret_env"),
        ({"secret_file": "f"}, "one of secret_env"),
        ({"secret_env": "whsec_hidden="}, "names the environment variable"),
        ({"timeout": "soon"}, "not a duration"),
        ({"timeout": "1h"}, "timeout is"),
        ({"deadline": "1s"}, "deadline is shorter"),
        ({"connections_max": 0}, "connections_max is"),
    ],
)
def test_webhook_that_cannot_be_meant_is_refused(change: dict[str, Any], said: str) -> None:
    """The error says what to write, and shows nothing that may be secret."""
    with pytest.raises(ValueError, match=said) as raised:
        Webhook(**WEBHOOK | change)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"url": "http://:hidden@a"}, "url is no address"), ({"key": ""}, "key is empty"),
     ({"entries_max": 0}, "entries_max"), ({"secret_file": ""}, "path of a file")],
)  # fmt: skip
def test_stream_that_cannot_be_meant_is_refused(change: dict[str, Any], said: str) -> None:
    """As for a webhook."""
    with pytest.raises(ValueError, match=said) as raised:
        RedisStream(**STREAM | change)
    assert "hidden" not in str(raised.value)


def test_pipeline_takes_nothing_else_for_results() -> None:
    """A URL alone is told what to write."""

    class Amount(tr.Request):
        amount: float

    class Score(tr.Response):
        score: float

    with pytest.raises(CompileError, match=r"results: .* is of type str") as raised:
        tr.Pipeline(
            name="a", request=Amount, response=Score, features=[Amount.amount], model=tr.Model("log"),
            budget=tr.Budget("50ms"), results="https://a.example",  # type: ignore[arg-type]
        )  # fmt: skip
    assert "tr.Webhook" in str(raised.value)
    declared = tr.RedisStream(**STREAM)
    assert declared == RedisStream(**STREAM)
    assert tr.Webhook is Webhook
