"""`tailrace serve --grpc-port`: real clients at a real server, while its workers are killed and while it drains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import Caller  # noqa: E402
from serving import Server, serving, start_serve, wait_for  # noqa: E402

from proto_types import compiled  # noqa: E402
from tailrace.codecs.proto_form import message_forms  # noqa: E402
from tailrace.codecs.proto_lock import lock_path, locked, write_lock  # noqa: E402
from tailrace.compile.loading import load_pipelines  # noqa: E402

RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}  # fmt: skip


Served = tuple[Path, ModuleType]


@pytest.fixture(scope="module")
def served(pipelines_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Return a file that declares the pipeline `wire`, with its numbers beside it, and protoc's messages of it."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(pipelines_dir / "models", folder / "models")
    text = (pipelines_dir / "log.py").read_text().replace('name="log",', 'name="wire",')
    assert 'Budget("50ms")' in text
    (folder / "wire.py").write_text(text.replace('Budget("50ms")', 'Budget("20s")'))  # a busy machine sheds nothing
    pipeline = load_pipelines(folder / "wire.py")[0]
    write_lock(locked(message_forms(pipeline.request, pipeline.response), None), lock_path(folder, "wire"))
    return folder / "wire.py", compiled(tmp_path_factory.mktemp("proto"), pipeline.request, pipeline.response, "wire")


def address_of(server: Server) -> str:
    """Return where a server takes gRPC."""
    address: str = server.events("ready")[0]["grpc"]
    return address


@contextmanager
def calling(address: str, messages: ModuleType, *, retries: bool = True) -> Iterator[Caller]:
    """Return a caller on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", int(retries)),
               ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip
    if retries:
        options.append(("grpc.service_config", json.dumps(RETRIES)))
    with grpc.insecure_channel(address, options) as channel:
        yield Caller(channel, messages)


def test_server_serves_grpc_beside_http(served: Served, tmp_path: Path) -> None:
    """The log says where; the pipeline without numbers is named, and both ports answer the same."""
    file, messages = served
    with serving(tmp_path / "log", file, "--grpc-port", "0") as server:
        assert server.events("pipelines have no service for gRPC: run `tailrace export proto`")[0]["pipelines"] == [
            "log_with_fallback"
        ]
        with calling(address_of(server), messages) as caller:
            answer = caller.predict(messages.Amount(amount=1.5, label="a"), timeout=10)
        told = server.ask("wire", {"amount": 1.5, "label": "a"}).body
        assert (answer.score, answer.decision, answer.label) == tuple(told.values())
        answered = "tailrace_requests_total", 'pipeline="wire"', 'code="200"'
        wait_for(lambda: server.metric(*answered) == 2, 10)


class Steady(threading.Thread):
    """Calls without a pause until it is stopped. answers: how many calls were answered; faults: what the others got."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(name="caller", daemon=True)
        self.answers = 0
        self.faults: list[grpc.RpcError] = []
        self._caller = caller
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        """Call, and check that each answer is its own call's."""
        while not self._stopping.is_set():
            label = str(self.answers)
            try:
                answer = self._caller.predict(
                    self._caller.messages.Amount(amount=1.5, label=label), timeout=20, wait_for_ready=True
                )
            except grpc.RpcError as fault:
                self.faults.append(fault)
                continue
            assert answer.label == label
            self.answers += 1

    def stop(self) -> None:
        """Stop, once the last call is answered."""
        self._stopping.set()
        self.join()


@pytest.mark.slow
def test_calls_go_on_when_a_worker_is_killed(served: Served, tmp_path: Path) -> None:
    """Clients with a retry policy see nothing of it; one without loses what was in flight with that worker at most."""
    file, messages = served
    with serving(tmp_path / "log", file, "--grpc-port", "0", "--workers", "2") as server, ExitStack() as stack:
        address = address_of(server)
        patient = [Steady(stack.enter_context(calling(address, messages))) for _ in range(4)]
        plain = [Steady(stack.enter_context(calling(address, messages, retries=False))) for _ in range(4)]
        wait_for(lambda: all(each.answers > 20 for each in (*patient, *plain)), 20)
        victim = server.workers()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        killed = [each.answers for each in (*patient, *plain)]
        wait_for(lambda: all(each.answers > at + 20 for each, at in zip((*patient, *plain), killed, strict=True)), 20)
        wait_for(lambda: all(each["state"] == "ready" for each in server.workers()), 30)
        for each in (*patient, *plain):
            each.stop()
        assert not [fault for each in patient for fault in each.faults]
        lost = [each.faults for each in plain if each.faults]
        assert all(len(faults) == 1 for faults in lost), [str(fault.details()) for each in lost for fault in each]
        assert {fault.code() for faults in lost for fault in faults} <= {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.slow
def test_what_is_in_flight_is_answered_when_the_server_drains(served: Served, tmp_path: Path) -> None:
    """A call that has come is answered; health says that the server goes, and then new calls find none."""
    file, messages = served
    with serving(tmp_path / "log", file, "--grpc-port", "0") as server, ExitStack() as stack:
        address = address_of(server)
        callers = [Steady(stack.enter_context(calling(address, messages, retries=False))) for _ in range(4)]
        channel = stack.enter_context(grpc.insecure_channel(address))
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30)
        assert next(watch) == b"\x08\x01"  # SERVING
        wait_for(lambda: all(each.answers > 20 for each in callers), 20)
        for each in callers:
            each.stop()
        assert not [fault for each in callers for fault in each.faults]
        pending = [
            each._caller.predict.future(messages.Amount(amount=1.5, label="last"), timeout=10) for each in callers
        ]
        assert [each.result().label for each in pending] == ["last"] * 4
        server.process.send_signal(signal.SIGTERM)
        assert next(watch) == b"\x08\x02"  # NOT_SERVING
        server.process.wait(20)
        with pytest.raises(grpc.RpcError):
            callers[0]._caller.predict(messages.Amount(amount=1.5), timeout=1)


@pytest.mark.slow
def test_calls_are_answered_across_a_restart_on_the_same_port(served: Served, tmp_path: Path) -> None:
    """Clients that wait for the server and retry lose no call when it drains and another one takes its place."""
    file, messages = served
    with serving(tmp_path / "first", file, "--grpc-port", "0") as server:
        address = address_of(server)
        port = address.rpartition(":")[2]
        with calling(address, messages) as one, calling(address, messages) as two:
            callers = [Steady(one), Steady(two)]
            wait_for(lambda: all(each.answers > 20 for each in callers), 20)
            server.end()
            with serving(tmp_path / "second", file, "--grpc-port", port):
                before = [each.answers for each in callers]
                wait_for(lambda: all(each.answers > at + 20 for each, at in zip(callers, before, strict=True)), 20)
                for each in callers:
                    each.stop()
        assert not [fault for each in callers for fault in each.faults]


@pytest.mark.slow
def test_port_of_another_server_is_refused(served: Served, tmp_path: Path) -> None:
    """Also while that one still loads: the supervisor claims the port before any worker binds it."""
    file, _ = served
    with serving(tmp_path / "first", file, "--grpc-port", "0") as server:
        port = address_of(server).rpartition(":")[2]
        second = start_serve(tmp_path / "second", file, "--grpc-port", port)
        assert second.process.wait(30) == 1
        assert "choose another port" in second.log.read_text()
