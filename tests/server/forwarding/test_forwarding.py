"""The prediction log sent on: every line comes to its sink, also over faults of it, of the log and of who sends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from features.redis_server import RedisServer, wait_until
from ingest.kafka_cluster import kafka
from monitor.log.test_prediction_log import Now, numbered, predictions
from tailrace.errors import SetupError
from tailrace.monitor.counts.forwarder import ForwarderCounts
from tailrace.monitor.layout import forwarder_layout
from tailrace.monitor.log.columns import log_table
from tailrace.monitor.log.files import LogFiles
from tailrace.monitor.shared import MetricBlock
from tailrace.server.forwarding import forwarder
from tailrace.server.forwarding.address import SinkAddress, check_sinks
from tailrace.server.forwarding.follower import LogFollower
from tailrace.server.forwarding.forwarder import Forwarding
from tailrace.server.forwarding.json_lines import json_lines
from tailrace.server.forwarding.positions import Positions
from tailrace.server.forwarding.sinks import KafkaSink, Line, SinkError

SINK = "redis://127.0.0.1:1/0?stream=log"
LIMIT_S = 20.0


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


@pytest.fixture
def files(tmp_path: Path, now: Now) -> Iterator[LogFiles]:
    """Yield a writer of a pipeline's log, whose draft is closed as it is in the end."""
    found = LogFiles(tmp_path / "log" / "fraud", now)
    yield found
    if found._draft is not None:
        found._draft.close()


def write(files: LogFiles, first: int, count: int) -> None:
    """Log some requests."""
    files.write([log_table(predictions(first, count))])


class Kept:
    """A sink that keeps lines. left: how many parts it takes before it fails once, after having taken the part."""

    def __init__(self, left: int = 1_000) -> None:
        self.lines: list[Any] = []
        self.left = left

    def send(self, lines: Sequence[Line]) -> int:
        """Keep lines."""
        self.lines += [json.loads(line.value) for line in lines]
        self.left -= 1
        if self.left == 0:
            raise SinkError("gone")
        return 0

    def close(self) -> None:
        """Keep them."""

    @property
    def ids(self) -> list[str]:
        """The ids of the requests in the order of lines."""
        return [line["request_id"] for line in self.lines]


class Sender:
    """One process's sending, round by round."""

    def __init__(self, root: Path, sink: Kept, url: str = SINK) -> None:
        address = SinkAddress.parse(url)
        self.block = MetricBlock.create(forwarder_layout(address.shown))
        self.warnings: list[str] = []
        counts = ForwarderCounts(self.block, address.shown)
        self.forwarding = Forwarding(root, address, counts, lambda event, **facts: self.warnings.append(facts["cause"]))
        self.forwarding._lines = sink
        self.sink = sink
        self.positions = Positions(root, address.shown)
        self.follower = LogFollower(root, self.positions)

    def send(self) -> None:
        """Send what there is."""
        try:
            self.forwarding._send(self.follower, self.positions)
        except SinkError:
            self.follower.begin_again()
        self.forwarding._show(self.follower)

    def counted(self, name: str) -> int:
        """Return what is counted."""
        return int(self.block.cells[self.block.find(f"tailrace_log_{name}", self.forwarding._address.shown).offset])

    def die(self) -> None:
        """Let a successor have it."""
        self.positions.close()


def test_line_is_json_with_its_request_as_sent() -> None:
    """Its key is the request id; what is null is left out, times are those of RFC 3339."""
    (line,) = json_lines("fraud", log_table(predictions(7, 1)))
    found = json.loads(line.value)
    assert line.key == b"r7"
    assert (found["pipeline"], found["request"], found["score"]) == ("fraud", {"n": 7}, 0.7)
    assert found["features"] == {"amount": 7.0, "Profile.kind": "a", "v": [1.0, 1.0, 1.0]}
    assert found["time"] == "2025-06-16T12:00:00.000000Z"
    assert "trace" not in found


def test_lines_come_once_over_drafts_whole_files_and_hours(tmp_path: Path, files: LogFiles, now: Now) -> None:
    """As they are written, with nothing read twice; a draft that becomes whole goes on where it was."""
    sender = Sender(tmp_path / "log", Kept())
    sender.send()
    for step in range(6):
        write(files, 3 * step, 3)
        if step != 2:
            sender.send()
        if step == 3:
            files.seal()
        now.s += 1_800
    sender.send()
    assert sender.sink.ids == numbered(0, 18)
    assert (sender.counted("sent_total"), sender.counted("waiting_bytes"), sender.counted("unsent_total")) == (18, 0, 0)


def test_what_is_sent_of_a_long_backlog_is_noted_meanwhile(
    tmp_path: Path, files: LogFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is killed in its midst, or at the server's end, sends little again."""
    monkeypatch.setattr(forwarder, "NOTE_S", 0.0)
    monkeypatch.setattr(forwarder, "PART_BYTES", 1)
    write(files, 0, 5)
    noted: list[int] = []

    class Noting(Kept):
        def send(self, lines: Sequence[Line]) -> int:
            noted.append(sum(each.sent for each in sender.positions.saved().values()))
            return super().send(lines)

    sender = Sender(tmp_path / "log", Noting())
    sender.send()
    assert noted == [0, 1, 2, 3, 4]


def test_successor_goes_on_where_the_one_before_has_noted(tmp_path: Path, files: LogFiles) -> None:
    """In the midst of a draft, too."""
    write(files, 0, 4)
    sink = Kept()
    first = Sender(tmp_path / "log", sink)
    first.send()
    write(files, 4, 4)
    first.die()
    second = Sender(tmp_path / "log", sink)
    second.send()
    files.seal()
    write(files, 8, 1)
    second.send()
    assert sink.ids == numbered(0, 9)


def test_sink_that_fails_gets_everything_and_nothing_is_skipped(tmp_path: Path, files: LogFiles) -> None:
    """What it has taken without saying so comes again; nothing else does."""
    for first in range(0, 40, 10):
        write(files, first, 10)
    sender = Sender(tmp_path / "log", Kept(left=3))
    sender.send()
    assert sender.counted("sent_total") == 20
    assert sender.counted("waiting_bytes") > 0
    sender.send()
    assert sender.sink.ids == numbered(0, 30) + numbered(20, 20)
    assert sender.counted("sent_total") == 40


def test_lines_that_are_swept_before_they_are_sent_are_counted(tmp_path: Path, files: LogFiles) -> None:
    """And those after them are sent."""
    sender = Sender(tmp_path / "log", Kept(left=1))
    write(files, 0, 7)
    files.seal()
    sender.send()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.unlink()
    write(files, 7, 2)
    sender.sink.lines.clear()
    sender.send()
    assert sender.sink.ids == numbered(7, 2)
    assert sender.counted("unsent_total") == 7


def test_log_that_is_removed_is_sent_on_from_its_new_beginning(tmp_path: Path, files: LogFiles) -> None:
    """What is noted of it is noted anew."""
    sender = Sender(tmp_path / "log", Kept())
    write(files, 0, 2)
    sender.send()
    shutil.rmtree(tmp_path / "log")
    with capture_logs():
        write(files, 2, 2)
    sender.send()
    sender.send()
    assert sender.sink.ids == numbered(0, 4)
    assert not sender.warnings
    sender.die()
    assert len(Positions(tmp_path / "log", SINK).files) == 1


def test_file_that_cannot_be_read_holds_up_no_other(tmp_path: Path, files: LogFiles) -> None:
    """It is told and left."""
    write(files, 0, 2)
    files.seal()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    write(files, 2, 2)
    sender = Sender(tmp_path / "log", Kept())
    sender.send()
    assert sender.sink.ids == numbered(2, 2)


def test_file_that_is_damaged_within_holds_up_no_other(tmp_path: Path, files: LogFiles) -> None:
    """What cannot be read of it is counted, and told once."""
    write(files, 0, 2_000)
    files.seal()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    content = bytearray(path.read_bytes())
    content[200:2_000] = bytes(1_800)
    path.write_bytes(content)
    write(files, 2_000, 2)
    sender = Sender(tmp_path / "log", Kept())
    sender.send()
    sender.send()
    assert sender.sink.ids == numbered(2_000, 2)
    assert sender.counted("unsent_total") == 2_000


def test_large_lines_are_sent_in_parts() -> None:
    """So many bytes at once, and never none."""
    lines = [Line(b"", bytes(size)) for size in (10, forwarder.PART_BYTES, 5, 5)]
    assert [len(part) for part in forwarder.parts(lines)] == [2, 2]
    assert list(forwarder.parts([])) == []


def test_two_servers_that_share_a_log_send_it_once(tmp_path: Path, files: LogFiles) -> None:
    """The second waits until the first is gone."""
    write(files, 0, 2)
    first = Sender(tmp_path / "log", Kept())
    with pytest.raises(BlockingIOError):
        Positions(tmp_path / "log", SINK)
    first.die()
    Positions(tmp_path / "log", SINK).close()


def test_whole_files_are_put_as_they_are(tmp_path: Path, files: LogFiles) -> None:
    """Under their paths; drafts are not, until they are whole."""
    url = f"file://{tmp_path / 'bucket'}"
    sender = Sender(tmp_path / "log", Kept(), url)
    write(files, 0, 2)
    sender.send()
    assert not (tmp_path / "bucket").exists()
    files.seal()
    sender.send()
    sender.send()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    copy = tmp_path / "bucket" / path.relative_to(tmp_path / "log")
    assert copy.read_bytes() == path.read_bytes()
    assert (tmp_path / "bucket").stat().st_mode & 0o777 == 0o700
    assert sender.counted("sent_total") == 2


@pytest.mark.parametrize(("text", "fault"), [
    ("redis://h:1/0", "which stream"), ("kafka://h:9092", "which stream"), ("kafka://user@h:9092/t", "password"),
    ("redis://h/0?stream=k&maxlen=-1", "not an address"), ("redis://h/0?stream=k&other=1", "not known"),
    ("/var/log", "there already"), ("", "no place"), ("s3://", "no place"), ("s3://b/p?color=1", "no parameter"),
])  # fmt: skip
def test_place_that_is_none_is_refused(text: str, fault: str) -> None:
    """At the start, with what to write."""
    with pytest.raises(SetupError, match=fault):
        SinkAddress.parse(text)


def test_sinks_need_a_log_and_no_place_twice() -> None:
    """What is sent on is on this machine's disk first; a password is not told."""
    with pytest.raises(SetupError, match="on this machine first"):
        check_sinks([SINK], None)
    with pytest.raises(SetupError, match="twice"):
        check_sinks([SINK, SINK], "log")
    address = SinkAddress.parse("redis://:secret@h:6379/0?stream=k&maxlen=7")
    assert (address.key, address.entries_max) == ("k", 7)
    assert "secret" not in address.shown


@contextmanager
def forwarding(root: Path, url: str) -> Iterator[Sender]:
    """Send a log on by a thread, until the end."""
    sender = Sender(root, Kept(), url)
    sender.die()
    sender.forwarding._lines = None
    thread = threading.Thread(target=sender.forwarding.run)
    thread.start()
    try:
        yield sender
    finally:
        sender.forwarding.stop()
        thread.join()


def test_redis_that_is_gone_for_a_while_gets_all_lines(
    tmp_path: Path, files: LogFiles, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry a line, in the field `event`, which Tailrace follows itself; the stream is bounded."""
    redis = pytest.importorskip("redis")
    monkeypatch.setattr(forwarder, "LOOK_S", 0.02)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    write(files, 0, 3)
    with forwarding(tmp_path / "log", f"{url}?stream=log&maxlen=5000") as sender:
        wait_until(lambda: sender.counted("sent_total") == 3, "nothing is sent", LIMIT_S)
        redis_server.kill()
        write(files, 3, 3)
        wait_until(lambda: bool(sender.warnings), "no fault is told", LIMIT_S)
        redis_server.start()
        wait_until(lambda: sender.counted("sent_total") == 6, "the rest is not sent", LIMIT_S)
    with redis.Redis.from_url(url) as client:
        entries = client.xrange("log")
    assert [json.loads(fields[b"event"])["request_id"] for _, fields in entries][-3:] == numbered(3, 3)


@pytest.mark.slow
def test_kafka_gets_a_message_a_line_and_a_gone_broker_is_told(tmp_path: Path, files: LogFiles) -> None:
    """Keyed by the request id. Brokers that answer nothing are a fault of the sink, and all comes again."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    write(files, 0, 1_500)
    with kafka("log") as (_, brokers):
        large = KafkaSink(SinkAddress.parse(f"kafka://{brokers}/log"))
        assert large.send([Line(b"", bytes(2_000_000))]) == 1
        large.close()
        with forwarding(tmp_path / "log", f"kafka://{brokers}/log") as sender:
            wait_until(lambda: sender.counted("sent_total") == 1_500, "not all is sent", LIMIT_S)
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe(["log"])
        found: list[Any] = []
        wait_until(lambda: len(take(consumer, found)) == 1_500, "not all is there", LIMIT_S)
        consumer.close()
    assert {message.key() for message in found} == {name.encode() for name in numbered(0, 1_500)}
    sink = KafkaSink(SinkAddress.parse(f"kafka://{brokers}/log"))
    with pytest.raises(SinkError):
        sink.send([Line(b"k", b"{}")])
    sink.close()


def take(consumer: Any, found: list[Any]) -> list[Any]:
    """Return all messages so far."""
    found += [message for message in consumer.consume(500, 0.5) if message.error() is None]
    return found


@pytest.mark.slow
def test_bucket_that_is_gone_for_a_while_gets_all_files(
    tmp_path: Path, files: LogFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As moto plays it: it is told that it does not answer, and the files are there once it does."""
    from release.registry.s3_server import BUCKET, KEYS, S3Server

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(forwarder, "LOOK_S", 0.05)
    server = S3Server()
    write(files, 0, 3)
    files.seal()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    try:
        with forwarding(tmp_path / "log", f"s3://{BUCKET}/logs?region=eu-west-1&endpoint={server.endpoint}") as sender:
            wait_until(lambda: bool(sender.warnings), "no fault is told", 60)
            assert sender.counted("sent_total") == 0
            server.start()
            wait_until(lambda: sender.counted("sent_total") == 3, "the file is not there", 60)
        from tailrace.release.registry.opening import open_storage

        storage = open_storage(f"s3://{BUCKET}/logs?region=eu-west-1&endpoint={server.endpoint}")
        (found,) = storage.find("")
        assert found.key == path.relative_to(tmp_path / "log").as_posix()
        assert b"".join(storage.stream(found.key)) == path.read_bytes()
    finally:
        server.kill()
