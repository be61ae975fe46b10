"""The members' directory, packaged once, and what makes clients of pipelines that are composed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tailrace as tr
from inference.composition.members import Decision, Payment, write_members
from tailrace.inference.declaration import StageDeclaration
from tailrace.testing import TestClient


@pytest.fixture(scope="session")
def members(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tr.Model]:
    """Return what declares a packaged member by its name."""
    folder = tmp_path_factory.mktemp("members")
    write_members(folder)
    return lambda name, **more: tr.Model(name, path=folder / name, **more)


@pytest.fixture
def client_of_stage() -> Iterator[Callable[..., TestClient]]:
    """Return what gives the client of a pipeline with a stage; they are closed after the test."""
    clients: list[TestClient] = []

    def client(stage: StageDeclaration, **more: Any) -> TestClient:
        given: dict[str, Any] = {
            "name": "composed", "request": Payment, "response": Decision, "features": [Payment.amount],
            "budget": tr.Budget("400ms", inference="80ms"), "model": stage,
        }  # fmt: skip
        clients.append(TestClient(tr.Pipeline(**(given | more))))
        return clients[-1]

    yield client
    for each in clients:
        each.plan.close()
