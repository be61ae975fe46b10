"""The configurations for what stands before servers: the real programs take them, and they fit the pipelines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from programs import find_program
from tailrace.cli.export_gateways import BODY_BYTES_MAX
from tailrace.cli.main import app
from tailrace.server.options import ServeOptions

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from rolling import NGINX

ROOT = Path(__file__).parents[2]
FRAUD = str(ROOT / "examples" / "fraud" / "pipeline.py")
SERVERS = ("--server", "127.0.0.1:8080", "--server", "127.0.0.1:8082")
LISTENER = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:listener/app/front/50dc6c495c0c9188/f2f7dc8efc522ab2"
AWS = ("--vpc-link", "abc123", "--listener", LISTENER)
PATHS = {"/v1/pipelines/fraud/predict", "/v1/streams/payments/events", "/v1/streams/labels/events"}
ANSWER_MS = {"predict-fraud": 50 + 2_500, "events-payments": 1_000 + 2_500, "events-labels": 1_000 + 2_500}
"""The budget, a second until a lost answer is answered, one until that is seen, and half a one for the way."""
KONG = {
    "upstream": {"name", "algorithm", "targets", "healthchecks"},
    "active": {"type", "http_path", "timeout", "healthy", "unhealthy"},
    "healthy": {"interval", "successes", "http_statuses"},
    "unhealthy": {"interval", "http_failures", "tcp_failures", "timeouts", "http_statuses"},
    "service": {"name", "protocol", "host", "port", "connect_timeout", "write_timeout", "read_timeout", "retries",
                "routes"},
    "route": {"name", "methods", "paths", "strip_path", "protocols"},
}  # fmt: skip
"""Names of Kong Gateway 3's entities; it refuses a file with any that it does not know."""


def exported(*arguments: str) -> str:
    """Return what `tailrace export` prints."""
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def kong() -> dict[str, Any]:
    """Return Kong's document; what is above it are comments."""
    lines = exported("kong", FRAUD, *SERVERS).splitlines()
    body = [line for line in lines if not line.startswith("#")]
    document: dict[str, Any] = json.loads("\n".join(body))
    return document


@pytest.mark.parametrize(("name", "file"), [("nginx", "nginx.conf"), ("haproxy", "haproxy.cfg")])
def test_example_is_what_is_exported(name: str, file: str) -> None:
    """The files that the how-to page shows are those of the command."""
    assert (ROOT / "examples" / "balancers" / file).read_text() == exported(name, FRAUD, *SERVERS)


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    """Nginx reads it without an error or a warning; the servers, the time and the body's size are in it."""
    site = tmp_path / "tailrace.conf"
    site.write_text(exported("nginx", FRAUD, *SERVERS, "--server", "[::1]:8084", "--body-bytes-max", "3000"))
    whole = tmp_path / "nginx.conf"
    whole.write_text(NGINX.format(folder=tmp_path, site=site))
    program = find_program("nginx", "nginx-light")
    tried = subprocess.run(
        [program, "-t", "-c", whole, "-e", tmp_path / "log"], check=False, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr
    text = site.read_text()
    assert re.findall(r"    server (\S+) max", text) == ["127.0.0.1:8080", "127.0.0.1:8082", "[::1]:8084"]
    assert "client_max_body_size 3k;" in text  # 2.93 KiB
    assert "proxy_read_timeout 3500ms;" in text  # of the slowest path


def test_ports_of_grpc_come_behind_those_of_http(tmp_path: Path) -> None:
    """Both take them: nginx as another upstream, HAProxy with the health of the server that each belongs to."""
    ports = ("--grpc-server", "127.0.0.1:50051", "--grpc-server", "127.0.0.1:50052", "--grpc-listen", "127.0.0.1:8009")
    site, whole, file = tmp_path / "site", tmp_path / "nginx.conf", tmp_path / "haproxy.cfg"
    site.write_text(exported("nginx", FRAUD, *SERVERS, *ports))
    whole.write_text(NGINX.format(folder=tmp_path, site=site))
    file.write_text(exported("haproxy", FRAUD, *SERVERS, *ports))
    nginx, haproxy = find_program("nginx", "nginx-light"), find_program("haproxy", "haproxy")
    for command in ([nginx, "-t", "-c", whole, "-e", tmp_path / "log"], [haproxy, "-c", "-f", file]):
        tried = subprocess.run(command, check=False, capture_output=True, text=True)
        assert tried.returncode == 0, tried.stderr
        assert not re.search(r"warn|WARNING|ALERT", tried.stdout + tried.stderr)
    assert re.findall(r"server (g\d \S+) .*track (\S+)", file.read_text()) == [
        ("g1 127.0.0.1:50051", "tailrace/s1"),
        ("g2 127.0.0.1:50052", "tailrace/s2"),
    ]


def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    """HAProxy reads it without an error or a warning."""
    file = tmp_path / "haproxy.cfg"
    file.write_text(exported("haproxy", FRAUD, *SERVERS, "--listen", "0.0.0.0:8000"))
    tried = subprocess.run(
        [find_program("haproxy", "haproxy"), "-c", "-f", file], check=False, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr
    assert not re.search(r"WARNING|ALERT", tried.stdout + tried.stderr)
    assert "timeout server 3500ms" in file.read_text()


def test_kong_is_told_of_each_path_with_its_time() -> None:
    """A service and a route for each pipeline and stream, exact in its path, and health checks of the readiness."""
    document = kong()
    assert set(document) == {"_format_version", "upstreams", "services"}
    assert document["_format_version"] == "3.0"
    (upstream,) = document["upstreams"]
    active = upstream["healthchecks"]["active"]
    assert [each["target"] for each in upstream["targets"]] == ["127.0.0.1:8080", "127.0.0.1:8082"]
    assert (active["http_path"], active["unhealthy"]["http_statuses"]) == ("/readyz", [503])
    assert (set(upstream), set(active)) == (KONG["upstream"], KONG["active"])
    assert (set(active["healthy"]), set(active["unhealthy"])) == (KONG["healthy"], KONG["unhealthy"])
    found = set()
    for service in document["services"]:
        (route,) = service["routes"]
        assert (set(service), set(route)) == (KONG["service"], KONG["route"])
        assert service["host"] == upstream["name"]
        assert service["read_timeout"] == ANSWER_MS[service["name"]]
        pattern = re.compile(route["paths"][0].removeprefix("~"))
        (path,) = (each for each in PATHS if pattern.fullmatch(each))
        assert route["paths"][0].startswith("~/")
        assert not pattern.fullmatch(f"{path}/more")
        assert route["strip_path"] is False
        found.add(path)
    assert found == PATHS


def test_kong_reads_its_configuration_as_yaml() -> None:
    """The file, with its comments, is YAML."""
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(exported("kong", FRAUD, *SERVERS)) == kong()


def test_api_gateway_document_is_one_of_openapi() -> None:
    """It is valid OpenAPI 3.0, the newest that API Gateway reads, with an integration for each path."""
    validator = pytest.importorskip("openapi_spec_validator")
    document = json.loads(exported("aws", FRAUD, *AWS))
    validator.validate(document)
    assert document["openapi"] == "3.0.1"
    assert set(document["paths"]) == PATHS
    for item in document["paths"].values():
        way = item["post"]["x-amazon-apigateway-integration"]
        assert (way["type"], way["httpMethod"], way["connectionType"]) == ("http_proxy", "POST", "VPC_LINK")
        assert (way["connectionId"], way["uri"]) == ("abc123", LISTENER)
        assert way["timeoutInMillis"] == ANSWER_MS[item["post"]["operationId"]]
        assert way["requestParameters"] == {"overwrite:path": "$request.path"}  # else the stage's name is before it


def test_api_gateway_is_told_no_longer_time_than_it_takes(pipelines_dir: Path, tmp_path: Path) -> None:
    """A budget of a minute is cut to the 30 s that an HTTP API waits at most."""
    file = tmp_path / "log.py"
    file.write_text((pipelines_dir / "log.py").read_text().replace('"50ms"', '"1m"'))
    document = json.loads(exported("aws", str(file), *AWS))
    item = document["paths"]["/v1/pipelines/log/predict"]
    assert item["post"]["x-amazon-apigateway-integration"]["timeoutInMillis"] == 30_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("nginx", FRAUD, "--server", "127.0.0.1"),
        ("nginx", FRAUD, "--server", "a:1; include /etc/passwd"),
        ("nginx", FRAUD, "--listen", "127.0.0.1:8000 ssl"),
        ("haproxy", FRAUD, "--server", "a:1\n    server b:2"),
        ("haproxy", FRAUD, "--server", "a:70000"),
        ("kong", FRAUD, "--server", "a:1", "--server", "a:1"),
        ("nginx", FRAUD, "--grpc-server", "a b:1"),
        ("aws", FRAUD, "--vpc-link", "abc123", "--listener", "http://a"),
        ("aws", FRAUD, "--vpc-link", "a b", "--listener", LISTENER),
    ],
)
def test_what_is_no_address_is_refused(arguments: tuple[str, ...]) -> None:
    """An address becomes part of a configuration, so nothing else may stand in its place."""
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == 1
    assert "is no" in str(result.exception) or "the servers are" in str(result.exception)


def test_port_of_grpc_without_its_server_is_refused() -> None:
    """Each belongs to a server, whose health it has."""
    result = CliRunner().invoke(app, ["export", "haproxy", FRAUD, *SERVERS, "--grpc-server", "127.0.0.1:50051"])
    assert result.exit_code == 1
    assert "2 servers have 1 ports" in str(result.exception)


def test_body_of_a_server_that_is_told_nothing() -> None:
    """The size of a body is the server's own."""
    assert ServeOptions(files=()).body_bytes_max == BODY_BYTES_MAX
