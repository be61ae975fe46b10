"""The document of the API: what it says is what the types, the decoder and the server say."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from http_server import PIPELINES, RawClient, ample, head_of, post
from structlog.testing import capture_logs
from typer.testing import CliRunner

import tailrace as tr
from tailrace.cli.main import app
from tailrace.codecs.json import JsonCodec
from tailrace.compile.loading import load_pipelines
from tailrace.errors import ServingError
from tailrace.monitor.metrics import error_kinds
from tailrace.pipeline import Pipeline
from tailrace.server.logging import logger
from tailrace.server.openapi.document import openapi_document
from tailrace.server.openapi.page import description_routes, reference_page
from tailrace.server.openapi.schemas import Schemas
from tailrace.server.served import offer_of

ROOT = Path(__file__).parents[2]
DECLARED = sorted(
    path.stem for path in (ROOT / "tests" / "pipelines").glob("*.py") if "tr.Pipeline(" in path.read_text()
)
JSON = "application/json"
PROBLEM = "application/problem+json"


def operation(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the document says of a pipeline."""
    found: dict[str, Any] = document["paths"][f"/v1/pipelines/{name}/predict"]["post"]
    return found


def loaded(name: str) -> list[Pipeline]:
    """Return the pipelines of a file."""
    return load_pipelines(ROOT / "tests" / "pipelines" / f"{name}.py")


@pytest.mark.parametrize("name", DECLARED)
def test_document_is_valid(name: str) -> None:
    """Whatever the types are, the document is one of OpenAPI 3.1."""
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(openapi_document(loaded(name)))
    validator.validate(openapi_document(loaded(name), with_keys=True))


@pytest.mark.parametrize("name", DECLARED)
def test_examples_are_of_their_types(name: str) -> None:
    """An example of a request is decoded, one of an answer is of the response type, alone and in an array."""
    pipelines = loaded(name)
    document = openapi_document(pipelines)
    for pipeline in pipelines:
        said = operation(document, pipeline.name)
        decode = JsonCodec(pipeline.request, array_max=10).decode
        for each in said["requestBody"]["content"][JSON]["examples"].values():
            assert not isinstance(decode(json.dumps(each["value"]).encode()), ServingError)
        answers = said["responses"]["200"]["content"][JSON]["examples"]
        msgspec.convert(answers["one"]["value"], pipeline.response)
        assert len(msgspec.convert(answers["many"]["value"], list[pipeline.response])) == 2  # type: ignore[name-defined]


def test_schema_says_what_the_decoder_holds() -> None:
    """Bounds of integers, the form of a time, the length of what makes rows, and that no other field is known."""
    components = openapi_document([*loaded("payment"), *loaded("ranking")], array_max=7)["components"]["schemas"]
    payment = components["payment.Payment"]
    assert payment["additionalProperties"] is False
    assert payment["properties"]["customer_id"]["minimum"] == -(2**63)
    assert payment["properties"]["time"]["format"] == "date-time"
    assert components["ranking.Ranking"]["properties"]["item_ids"]["maxItems"] == 300
    asked = operation(openapi_document(loaded("payment"), array_max=7), "payment")["requestBody"]["content"]
    assert asked[JSON]["schema"]["anyOf"][1]["maxItems"] == 7
    assert asked["application/msgpack"]["schema"] == asked[JSON]["schema"]


def test_every_status_is_in_the_document() -> None:
    """An error that a caller may get is told; those of keys where keys are wanted, the disk's with results."""
    statuses = {str(kind.status) for kind in error_kinds()} - {"404", "405", "507"}
    plain, keyed = (openapi_document(loaded("payment"), with_keys=keys) for keys in (False, True))
    assert set(operation(keyed, "payment")["responses"]) == statuses | {"200"}
    assert set(operation(plain, "payment")["responses"]) == statuses - {"401", "403"} | {"200"}
    assert operation(keyed, "payment")["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in operation(plain, "payment")


def test_requests_that_are_accepted_are_told_where_results_are_declared() -> None:
    """The mode, its answer, the disk's error, and the signed message that comes: it is all valid, and nowhere else."""
    (pipeline,) = loaded("payment")
    results = tr.Webhook("https://a.example/x", secret_env="A")
    validator = pytest.importorskip("openapi_spec_validator")
    document = openapi_document([replace(pipeline, results=results), *loaded("ranking")])
    validator.validate(document)
    found = operation(document, "payment")
    assert [each["name"] for each in found["parameters"] if "name" in each] == ["mode"]
    assert {"202", "507"} <= found["responses"].keys()
    (message,) = document["webhooks"].values()
    assert {each["name"] for each in message["post"]["parameters"]} >= {"webhook-id", "webhook-signature"}
    plain = operation(document, "ranking")
    assert not {"202", "507"} & plain["responses"].keys()
    assert not [each for each in plain["parameters"] if "name" in each]


def test_messages_are_told_where_there_are_some(tmp_path: Path) -> None:
    """Protocol Buffers are in the document once numbers of a pipeline's fields are kept, and served then."""
    path = tmp_path / "payment.py"
    path.write_text((ROOT / "tests" / "pipelines" / "payment.py").read_text())
    before = operation(openapi_document(load_pipelines(path)), "payment")["requestBody"]["content"]
    assert CliRunner().invoke(app, ["export", "proto", str(path)]).exit_code == 0
    pipelines = load_pipelines(path)
    said = operation(openapi_document(pipelines), "payment")
    assert said["requestBody"]["content"].keys() - before.keys() == {"application/x-protobuf"}
    assert said["responses"]["200"]["content"].keys() == said["requestBody"]["content"].keys()
    offer = offer_of(pipelines[0], 10, 1_000)
    assert all(offer.find(name.encode(), b"") or name == JSON for name in said["requestBody"]["content"])


def test_arrow_is_told_where_the_server_speaks_it() -> None:
    """In requests and answers of every pipeline, and by `tailrace export openapi --with-arrow`."""
    validator = pytest.importorskip("openapi_spec_validator")
    plain, said = (openapi_document(loaded("payment"), with_arrow=arrow) for arrow in (False, True))
    validator.validate(said)
    more = {"application/vnd.apache.arrow.stream"}
    for found in (lambda each: each["requestBody"], lambda each: each["responses"]["200"]):
        before, after = (found(operation(document, "payment"))["content"].keys() for document in (plain, said))
        assert after - before == more


def test_streams_are_in_the_document() -> None:
    """Each stream has its operation, with its own type though another is called as it is."""
    document = openapi_document(loaded("activity"))
    assert {"/v1/streams/payments/events", "/v1/streams/labels/events"} <= document["paths"].keys()
    assert {"stream.payments.Payment", "activity.Payment"} <= document["components"]["schemas"].keys()


def test_server_is_as_the_document_says(client: RawClient, pipeline_of: Callable[[str], Pipeline]) -> None:
    """It serves the document, answers the examples of a request, and refuses a body in the document's words."""
    served = client.ask(head_of("GET", "/openapi.json"))
    assert (served.status, served.headers["content-type"]) == (200, JSON)
    assert served.json == openapi_document([ample(pipeline_of(name)) for name in PIPELINES])
    said = operation(served.json, "payment")
    for each in said["requestBody"]["content"][JSON]["examples"].values():
        answer = client.ask(post(json.dumps(each["value"]).encode(), path="/v1/pipelines/payment/predict"))
        assert answer.status == 200
    for status, body in (("400", b"{"), ("422", b"null")):
        (told,) = said["responses"][status]["content"][PROBLEM]["examples"].values()
        assert client.ask(post(body, path="/v1/pipelines/payment/predict")).problem() == told["value"]


def test_page_is_one_file(client: RawClient) -> None:
    """The page names nothing outside itself, and may load nothing."""
    page = client.ask(head_of("GET", "/docs"))
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    text = page.body.decode()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(|<link""", text)
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == client.ask(head_of("GET", "/openapi.json")).json


class Item(msgspec.Struct):
    """One thing that is bought, with things of its own."""

    price: Decimal
    parts: list[Item] = []


class Basket(tr.Request):
    """What is bought."""

    items: list[Item]
    seen: dict[str, dt.datetime]
    paid: dt.datetime | None = None
    pickup: Annotated[dt.time, tr.Field(description="on the day")] = dt.time(12)


def test_form_of_a_text_is_told_wherever_it_stands() -> None:
    """A time or a decimal in a list, a union, a dict or a type within itself is no text of any kind."""
    schemas = Schemas()
    schemas.of_request("shop", Basket)
    basket, item = (schemas.components[f"shop.{name}"]["properties"] for name in ("Basket", "Item"))
    assert {"type": "string", "format": "date-time"} in basket["paid"]["anyOf"]
    assert (basket["pickup"]["format"], basket["pickup"]["description"]) == ("time", "on the day")
    assert basket["seen"]["additionalProperties"]["format"] == "date-time"
    assert re.fullmatch(item["price"]["pattern"], "1.50")
    assert schemas.components["shop.Basket"]["description"] == "What is bought."


def test_text_of_a_type_stays_in_the_document() -> None:
    """What somebody writes in a docstring cannot end the script that it stands in."""

    class Odd(tr.Request):
        """</script><script>alert(1)</script>."""

        amount: float

    schemas = Schemas()
    schemas.of_request("odd", Odd)
    page = reference_page({"components": schemas.components})
    assert b"alert(1)" in page
    assert b"<script>alert" not in page


def test_what_cannot_be_described_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in describing is logged, and leaves the two routes out."""
    (pipeline,) = loaded("payment")
    assert description_routes([pipeline], 10, logger()).keys() == {b"/openapi.json", b"/docs"}
    monkeypatch.setattr(pipeline.request, "example", {1j: 1}, raising=False)
    with capture_logs() as told:
        assert description_routes([pipeline], 10, logger()) == {}
    assert [line["event"] for line in told] == ["the API cannot be described"]


def test_command_prints_the_document() -> None:
    """`tailrace export openapi` prints what a server of the files would answer."""
    files = [str(ROOT / "tests" / "pipelines" / f"{name}.py") for name in ("payment", "ranking")]
    done = CliRunner().invoke(app, ["export", "openapi", *files, "--array-max", "5", "--with-keys"])
    assert done.exit_code == 0, done.output
    pipelines = [*loaded("payment"), *loaded("ranking")]
    assert json.loads(done.output) == openapi_document(pipelines, array_max=5, with_keys=True)
