"""Tries one extra, alone: `python smoke.py EXTRA FOLDER`, in a venv without another.

EXTRA: serve, offline, postgres, spark, package, catboost, lightgbm, xgboost, sklearn, torch, dynamodb, registry, kafka,
arrow, zstd, grpc, jwt, tracing, bench, dev; "serve" is no extra at all. The folder is a copy of what prepare.py wrote.
It ends with 0 where all went well. Needs nothing but tailrace and that extra itself; postgres also Debian's server,
spark also Java.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
COMMAND_S_MAX: Final = 300.0
READY_S_MAX: Final = 60.0
SCORE_DIFFERENCE_MAX: Final = 1e-5
STREAMS: Final = """
import tailrace as tr

class Payment(tr.Request):
    number: int
    customer_id: int
    time: float

class Counted(tr.Response):
    count: int

payments = tr.Stream("payments", schema=Payment, time="time", id="number")

class Activity(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = payments
    count: int = tr.count(window="1h")

pay = tr.Pipeline(name="pay", request=Payment, response=Counted, features=[Activity], model=tr.Model("pay"),
                  budget=tr.Budget("1s"), store="lmdb:streams", time="time")
"""
LOAD: Final = ("--rate", "50", "--duration", "1s", "--budget", "30s", "--json")


def run(*command: str | Path, cwd: Path, **settings: str) -> str:
    """Return what a command prints. Raises CalledProcessError where it fails, and tells all that it printed."""
    environment = {**os.environ, **settings}
    done = subprocess.run(command, cwd=cwd, env=environment, timeout=COMMAND_S_MAX, check=False, stdout=subprocess.PIPE,
                          text=True)  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout)
    done.check_returncode()
    return done.stdout


def tailrace(folder: Path, *words: str | Path) -> str:
    """Return what a command of tailrace prints."""
    return run(BIN / "tailrace", *words, cwd=folder)


def post(url: str, body: bytes) -> Any:
    """Return the JSON that a URL answers."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def started(
    *command: str | Path, cwd: Path, ends: tuple[int, ...] = (0,), **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """Yield a running process whose standard error is read; it is ended, and must end with one of these codes."""
    environment = {**os.environ, **settings}
    with subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server
            server.terminate()
            code = server.wait(READY_S_MAX)
            assert code in ends, f"{command[0]} ended with {code}"
        finally:
            server.kill()


def try_serve(folder: Path) -> None:
    """Check, serve, ask, watch, load and stop the pipeline; each score is the one of the model's framework."""
    assert "smoke" in tailrace(folder, "check", "pipeline.py")
    command = (BIN / "tailrace", "serve", "pipeline.py", "--port", "0", "--admin-port", "0")
    with started(*command, cwd=folder) as server:
        assert server.stderr is not None
        ready: dict[str, str] = {}
        for line in server.stderr:
            sys.stderr.write(line)
            if (event := json.loads(line))["event"] == "ready":
                ready = event
                break
        assert ready, "the server ended before it was ready"
        url = f"{ready['address']}/v1/pipelines/smoke/predict"
        requests = json.loads((folder / "requests.json").read_text())
        for request in requests:
            answer = post(url, json.dumps(request["body"]).encode())
            assert abs(answer["score"] - request["score"]) <= SCORE_DIFFERENCE_MAX, (request, answer)
            assert answer["decision"] == ("block" if answer["score"] >= 0.5 else "allow")
        with urllib.request.urlopen(f"{ready['admin']}/metrics", timeout=10) as told:
            assert b"tailrace_requests_total" in told.read()
        report = json.loads(tailrace(folder, "bench", url, "--data", json.dumps(requests[0]["body"]), *LOAD))
        assert report["statuses"] == {"200": 50}, report["statuses"]


def try_offline(folder: Path) -> None:
    """Materialise from Parquet, CSV and SQL into a new store, and serve from it."""
    shutil.rmtree(folder / ".tailrace")
    tailrace(folder, "materialize", "pipeline.py")
    try_serve(folder)


def try_postgres(folder: Path) -> None:
    """Materialise from a Postgres too, and serve what came of it."""
    sys.path.insert(0, str(ROOT / "tests" / "offline"))
    import pyarrow.parquet
    from postgres_server import PASSWORD, PostgresServer

    (folder / "postgres").mkdir()
    server = PostgresServer(folder / "postgres")
    try:
        server.start()
        server.execute("CREATE TABLE customers (customer_id bigint, spent numeric, as_of timestamptz)")
        rows = pyarrow.parquet.read_table(folder / "customers.parquet").to_pylist()
        values = ", ".join(f"({row['customer_id']}, {row['spent']!r}, '{row['as_of']}')" for row in rows)
        server.execute(f"INSERT INTO customers VALUES {values}")
        (folder / "customers.sql").write_text("SELECT customer_id, 2 * spent AS spent_twice, as_of FROM customers")
        os.environ["PGPASSWORD"] = PASSWORD
        run_queries_on(folder, f'on="{server.url}"')
        try_offline(folder)
    finally:
        server.stop()


def try_spark(folder: Path) -> None:
    """Materialise the same query in a Spark session, and serve what came of it."""
    run_queries_on(folder, 'on="spark:local[1]", dialect="duckdb"')
    try_offline(folder)


def run_queries_on(folder: Path, place: str) -> None:
    """Let another engine run the pipeline's SQL file."""
    declared = (folder / "pipeline.py").read_text()
    source = 'tr.SQL("customers.sql", time="as_of"'
    assert source in declared
    (folder / "pipeline.py").write_text(declared.replace(source, f"{source}, {place}"))


def try_package(folder: Path) -> None:
    """Train and package a model of each framework, from Parquet, CSV and a frame, and serve the last one."""
    import lightgbm
    import pandas
    import xgboost
    from sklearn.linear_model import LogisticRegression

    from tailrace.release.package import package

    rows = pandas.read_csv(folder / "rows.csv")
    x, y = rows.drop(columns="blocked"), rows["blocked"]
    options = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    light = lightgbm.train(options, lightgbm.Dataset(x, y), 20)
    light.save_model(folder / "model.txt")
    xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(x, y).save_model(folder / "model.json")
    for file, data in (("model.txt", "rows.parquet"), ("model.json", "rows.csv")):
        out = f"models/{Path(file).suffix[1:]}"
        tailrace(folder, "package", file, "--data", data, "--target", "blocked", "--name", "smoke", "--out", out)
    package(LogisticRegression(max_iter=1_000).fit(x, y), rows, name="linear", out=folder / "models" / "linear")
    shorten_network(folder / "models", rows)

    serve_scores(folder, folder / "models" / "txt", light.predict(x))


def shorten_network(models: Path, rows: Any) -> None:
    """Make a network of shorter numbers, as `tailrace optimize` does, and load it; its picture's library is there."""
    import matplotlib.figure  # noqa: F401
    from sklearn.neural_network import MLPClassifier

    from tailrace.inference.loading import load_model
    from tailrace.inference.model_directory import read_manifest
    from tailrace.offline.optimize.evidence import Evidence
    from tailrace.offline.optimize.making import make
    from tailrace.offline.optimize.recipes import Recipe
    from tailrace.release.package import package
    from tailrace.release.table import read_table

    network = MLPClassifier((16,), solver="lbfgs", max_iter=20).fit(rows.drop(columns="blocked"), rows["blocked"])
    package(network, rows, name="network", out=models / "network", target="blocked")
    evidence = Evidence.gather(read_manifest(models / "network"), read_table(rows), "blocked")
    for kind in ("int8 dynamic", "int8 static", "float16", "optimised graph"):
        make(models / "network", Recipe(kind=kind), evidence, models / kind)
        load_model(models / kind)


def try_catboost(folder: Path) -> None:
    """Train and package a CatBoost model, and serve it."""
    import catboost
    import pandas

    rows = pandas.read_csv(folder / "rows.csv")
    x, y = rows.drop(columns="blocked"), rows["blocked"]
    options = {"iterations": 20, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(**options).fit(x, y)
    model.save_model(folder / "model.cbm")
    command = ("model.cbm", "--data", "rows.parquet", "--target", "blocked", "--name", "smoke", "--out", "models/cbm")
    tailrace(folder, "package", *command)
    serve_scores(folder, folder / "models" / "cbm", model.predict_proba(x)[:, 1])


def serve_scores(folder: Path, model: Path, scores: Any) -> None:
    """Serve a model, which gives the rows of the requests these scores."""
    shutil.rmtree(folder / "models" / "smoke")
    model.rename(folder / "models" / "smoke")
    requests = json.loads((folder / "requests.json").read_text())
    for request, score in zip(requests, scores, strict=False):
        request["score"] = float(score)
    (folder / "requests.json").write_text(json.dumps(requests))
    try_serve(folder)


def try_native(folder: Path, library: str) -> None:
    """Serve a model that only its library computes: its scores are the library's own."""
    shutil.rmtree(folder / "models" / "smoke")
    (folder / "models" / library).rename(folder / "models" / "smoke")
    (folder / f"requests-{library}.json").rename(folder / "requests.json")
    try_serve(folder)


def try_torch(folder: Path) -> None:
    """Compute a program of PyTorch from its archive, and find its graph."""
    import io

    import numpy as np
    import torch

    from tailrace.inference.backends.pytorch import PytorchModel
    from tailrace.inference.signature import Signature, TensorSpec

    net, rows = torch.nn.Linear(2, 1).eval(), torch.randn(8, 2)
    program = torch.export.export(net, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    written = io.BytesIO()
    torch.export.save(program, written)
    signature = Signature((TensorSpec("input", "float32", ("a", "b")),), "score", 0)
    scores = PytorchModel.open(written.getvalue(), signature)({"input": rows.numpy()})
    assert np.allclose(scores, net(rows).detach().numpy()[:, 0])
    assert torch.onnx.export(program, dynamo=True).model_proto.graph.output


def try_dynamodb(folder: Path) -> None:
    """Ask a DynamoDB that is not there: boto3 says so."""
    import asyncio

    from tailrace.deadline import MonotonicClock
    from tailrace.features.stores.opening import open_store
    from tailrace.loadtest.processes import free_port

    os.environ |= {"AWS_ACCESS_KEY_ID": "smoke", "AWS_SECRET_ACCESS_KEY": "smoke"}
    url = f"dynamodb://features?region=eu-west-1&endpoint=http://127.0.0.1:{free_port()}"

    async def ask() -> None:
        store = open_store(url, MonotonicClock())
        await store.open()
        (told,) = await asyncio.gather(
            store.fetch([b"{customer:1}C"], time.monotonic_ns() + 10_000_000_000), return_exceptions=True
        )
        store.close()
        assert isinstance(told, ConnectionError), told

    asyncio.run(ask())


def try_arrow(folder: Path) -> None:
    """Read a data frame's rows as requests."""
    import pyarrow as pa

    from tailrace.compile.loading import load_pipelines
    from tailrace.server.served import offer_of

    (pipeline,) = load_pipelines(folder / "pipeline.py")
    table = pa.table({"customer_id": [1, 2], "amount": [5.0, 7.5]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    codec = offer_of(pipeline, 1_000, 1 << 20, arrow=True).find(b"application/vnd.apache.arrow.stream", b"")
    assert codec is not None
    assert [each.amount for each in codec.decode(sink.getvalue().to_pybytes())] == [5.0, 7.5]


def try_zstd(folder: Path) -> None:
    """Read a body that comes in zstd."""
    from tailrace.compile.loading import load_pipelines
    from tailrace.server.served import offer_of

    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    (pipeline,) = load_pipelines(folder / "pipeline.py")
    codec = offer_of(pipeline, 1_000, 1 << 20).find(b"application/json", b"", b"zstd")
    assert codec is not None
    assert codec.decode(zstd.compress(b'{"customer_id": 1, "amount": 5.0}')).amount == 5.0


def try_jwt(folder: Path) -> None:
    """Sign a token, publish who signs, and tell its caller."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec

    from tailrace.server.tokens.key_set import KeySet
    from tailrace.server.tokens.tokens import TokenRules, Tokens

    key, file = ec.generate_private_key(ec.SECP256R1()), folder / "jwks.json"
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    file.write_text(json.dumps({"keys": [public | {"kid": "a"}]}))
    claims = {"iss": "i", "aud": "t", "exp": int(time.time()) + 60, "scope": "pipelines/fraud"}
    token = jwt.encode(claims, key, "ES256", headers={"kid": "a"})
    tokens = Tokens(KeySet(str(file)), TokenRules("i", "t"), lambda kind: None)
    assert tokens.caller_of(token.encode()).key.scopes == ("pipelines/fraud",)


def try_tracing(folder: Path) -> None:
    """Send a span to what takes them, and read it there."""
    import gzip
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from tailrace.monitor.tracing.endpoint import TraceEndpoint
    from tailrace.monitor.tracing.exporter import CallSpans, SpanExporter
    from tailrace.monitor.tracing.spans import SERVER, Span

    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        exporter = SpanExporter(TraceEndpoint.of(f"http://127.0.0.1:{server.server_port}"))
        span = Span(
            name="smoke", kind=SERVER, trace_id=b"t" * 16, span_id=b"s" * 8, parent_id=b"", start_ns=1, end_ns=2
        )
        exporter.put(CallSpans({"service.name": "smoke"}, [span]))
        exporter.close(READY_S_MAX)
        server.shutdown()
    assert exporter.outcomes["exported"] == 1
    (group,) = ExportTraceServiceRequest.FromString(gzip.decompress(bodies[0])).resource_spans
    assert group.scope_spans[0].spans[0].name == "smoke"


def try_grpc(folder: Path) -> None:
    """Serve a method and health over gRPC, and call both by grpcio's own client."""
    import asyncio

    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from tailrace.server.grpc.call import Desk
    from tailrace.server.grpc.limits import GrpcLimits
    from tailrace.server.grpc.server import GrpcServer
    from tailrace.server.grpc.service import Service
    from tailrace.server.options import ServeOptions

    async def call() -> None:
        echo = Service("smoke.Echo", {"Say": lambda call, body: body * 2})
        server = GrpcServer([echo], GrpcLimits.of(ServeOptions(files=())), Desk(lambda kind: None, time.monotonic_ns))
        server.health.set(is_ready=True)
        port = server.open("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary("/smoke.Echo/Say")(b"a", timeout=10) == b"aa"
            health = health_pb2_grpc.HealthStub(channel)
            told = await health.Check(health_pb2.HealthCheckRequest(service="smoke.Echo"), timeout=10)
            assert told.status == health_pb2.HealthCheckResponse.SERVING
        server.sweep()
        await server.drain(1.0)

    asyncio.run(call())


def try_registry(folder: Path) -> None:
    """Register a version, signed, in a directory and through fsspec, and fetch it; ask an S3 that is not there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tailrace.errors import RegistryError
    from tailrace.loadtest.processes import free_port
    from tailrace.release.registry.envelope import Signer, Trust
    from tailrace.release.registry.fetching import fetch_directory
    from tailrace.release.registry.registering import register
    from tailrace.release.registry.registry import open_registry

    key = Ed25519PrivateKey.generate()
    signer = Signer(key)
    for place, url in enumerate((str(folder / "registry"), "memory://registry")):
        registry = open_registry(url, Trust({signer.key_id: key.public_key()}), create=True)
        register(registry, folder / "models" / "smoke", "smoke", signer=signer)
        found = registry.version("smoke", 1)
        assert found.key_id == signer.key_id
        fetch_directory(registry, found.record, folder / f"fetched-{place}")
    os.environ |= {"AWS_ACCESS_KEY_ID": "smoke", "AWS_SECRET_ACCESS_KEY": "smoke"}
    try:
        open_registry(f"s3://models/x?region=eu-west-1&endpoint=http://127.0.0.1:{free_port()}")
        raise AssertionError("a registry was found where none is")
    except RegistryError as error:
        if "Could not connect" not in str(error):
            raise


def try_kafka(folder: Path) -> None:
    """Count the events of a topic, of a cluster that librdkafka imitates."""
    from confluent_kafka import Producer

    (folder / "streams.py").write_text(STREAMS)
    producer = Producer({"bootstrap.servers": "localhost:1", "test.mock.num.brokers": 1})
    brokers = producer.list_topics("payments", timeout=10).brokers
    origin = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
    for number in range(20):
        producer.produce("payments", json.dumps({"number": number, "customer_id": 1, "time": number}).encode())
    producer.flush(10)
    told = tailrace(folder, "ingest", "streams.py", "--from", f"kafka://{origin}/payments", "--until-idle", "--json")
    assert json.loads(told)["counted"] == 20, told


def try_bench(folder: Path) -> None:
    """Ask the benchmark's peer for a decision."""
    import lmdb

    from tailrace.loadtest.processes import free_port

    lmdb.open(str(folder / "peer")).close()
    port = free_port()
    command = (BIN / "python", "-m", "uvicorn", "fastapi_app:app", "--http", "httptools", "--port", str(port))
    settings = {
        "FRAUD_STORE": str(folder / "peer"),
        "FRAUD_MODEL": str(folder / "models" / "fraud" / "model.onnx"),
        "FRAUD_KEYS": "{customer:%d}C {terminal:%d}T",  # of a store that holds nothing
    }
    payment = {"transaction_id": "t", "customer_id": 1, "terminal_id": 2, "amount": 5, "time": "2026-01-05T03:12:00Z"}
    ends = (0, -signal.SIGTERM)  # uvicorn drains, and then some of its versions end as if they had not
    with started(*command, cwd=ROOT / "bench", ends=ends, **settings) as server:
        wait_open(f"http://127.0.0.1:{port}/readyz", server)
        answer = post(f"http://127.0.0.1:{port}/predict", json.dumps(payment).encode())
        assert answer["reasons"] == ["small_amount"], answer


def wait_open(url: str, server: subprocess.Popen[str]) -> None:
    """Wait until a URL answers."""
    end_s = time.monotonic() + READY_S_MAX
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < end_s, "the server was not ready in time"
            time.sleep(0.05)


def try_dev(folder: Path) -> None:
    """Lint, check types, run some tests, and build a wheel."""
    run(BIN / "ruff", "check", "--no-cache", cwd=ROOT)
    # Two files that use nothing but Python: what NumPy says of its types changes from version to version.
    typed = ("src/tailrace/errors.py", "src/tailrace/deadline.py")
    run(BIN / "mypy", "--cache-dir", folder / "mypy", *typed, cwd=ROOT)
    tests = ("tests/test_architecture.py", "tests/test_deadline.py")
    run(BIN / "python", "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", *tests, cwd=ROOT, PYTHONPATH="src")
    source = folder / "source"
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    run(BIN / "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    if not wheel.name.endswith("-any.whl"):  # there was a compiler
        programs = f"{BIN}:{os.environ['PATH']}"
        run(BIN / "auditwheel", "repair", "--wheel-dir", folder / "linux", wheel, cwd=folder, PATH=programs)
        assert list((folder / "linux").glob("*-py3-none-manylinux_*.whl"))


SMOKES: Final[dict[str, Callable[[Path], None]]] = {
    "serve": try_serve,
    "offline": try_offline,
    "postgres": try_postgres,
    "spark": try_spark,
    "package": try_package,
    "catboost": try_catboost,
    "lightgbm": partial(try_native, library="lightgbm"),
    "xgboost": partial(try_native, library="xgboost"),
    "sklearn": partial(try_native, library="sklearn"),
    "torch": try_torch,
    "dynamodb": try_dynamodb,
    "registry": try_registry,
    "kafka": try_kafka,
    "arrow": try_arrow,
    "zstd": try_zstd,
    "grpc": try_grpc,
    "jwt": try_jwt,
    "tracing": try_tracing,
    "bench": try_bench,
    "dev": try_dev,
}

if __name__ == "__main__":
    SMOKES[sys.argv[1]](Path(sys.argv[2]).resolve())
