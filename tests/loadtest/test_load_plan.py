"""A plan outside its limits is refused before anything is sent, with what, where and what next."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.errors import LoadtestError
from tailrace.loadtest.plan import LoadPlan, Target, parse_url

URL = "http://127.0.0.1:8080/predict"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://localhost/", Target("localhost", 80, "/")),
        ("http://127.0.0.1:8080", Target("127.0.0.1", 8080, "/")),
        ("http://[::1]:81/a/b?c=d", Target("::1", 81, "/a/b?c=d")),
    ],
)
def test_url_names_its_target(url: str, target: Target) -> None:
    """Host, port and path are read from the URL; the port is 80 and the path / where they are left out."""
    assert parse_url(url) == target


def test_target_of_ipv6_writes_its_authority_in_brackets() -> None:
    """The Host header of an IPv6 address has brackets."""
    assert Target("::1", 81, "/").authority == "[::1]:81"


@pytest.mark.parametrize(
    "url", ["https://a/", "a:80/b", "http:///x", "http://user@host/", "http://h:99999/", "http://h/a b", "http://h/é"]
)
def test_url_of_another_kind_is_refused(url: str) -> None:
    """What is not plain http to a host is refused with an example of what is accepted."""
    with pytest.raises(LoadtestError, match=r"next: write it as http://"):
        parse_url(url)


@pytest.mark.parametrize(
    ("amounts", "where"),
    [
        ({"rate": 1_000_001.0, "duration_s": 10.0}, "rate × duration"),
        ({"rate": 0.1, "duration_s": 1.0}, "rate × duration"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"connections": 0}, "connections"),
        ({"connections": 2, "processes": 3}, "processes"),
        ({"budget_ns": 0}, "budget_ns"),
        ({"drain_s": -1.0}, "drain_s"),
        ({"headers": [("X-A", "1\r\nX-B: 2")]}, "headers"),
        ({"headers": [("", "1")]}, "headers"),
    ],
)
def test_plan_outside_limits_is_refused(amounts: dict[str, Any], where: str) -> None:
    """Each limit is told with the field it stands at and what to do."""
    with pytest.raises(LoadtestError) as caught:
        LoadPlan(URL, **amounts)
    assert caught.value.where == where
    assert caught.value.next
