"""The sending process: `python -m tailrace.loadtest.sender`, told what to do over stdin by `tailrace.loadtest.runner`.

A process of its own, so that nothing the caller does (a progress bar, garbage collection, another thread holding the
GIL) delays a shot. It ends when its caller is gone: its stdin ends, or its stdout breaks at the next progress message.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from typing import BinaryIO

from tailrace.deadline import NS_PER_S
from tailrace.errors import TailraceError
from tailrace.loadtest.connection import resolve
from tailrace.loadtest.generator import Generator
from tailrace.loadtest.messages import (
    LENGTH_BYTES,
    Failure,
    Job,
    Message,
    Progress,
    Ready,
    Start,
    encode_message,
    pack_record,
    take_messages,
)
from tailrace.loadtest.plan import LoadPlan, Target, parse_url
from tailrace.loadtest.pool import Pool
from tailrace.loadtest.record import make_record
from tailrace.loadtest.schedule import build_schedule


def build_requests(plan: LoadPlan, target: Target) -> list[bytes]:
    """Return the whole request of each body; a GET where there are no bodies."""
    headers = {"host": f"Host: {target.authority}"}
    if plan.bodies:
        headers["content-type"] = "Content-Type: application/json"
    headers |= {name.lower(): f"{name}: {value}" for name, value in plan.headers}
    fields = "".join(f"{line}\r\n" for line in headers.values())
    if not plan.bodies:
        return [f"GET {target.path} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")]
    head = f"POST {target.path} HTTP/1.1\r\n{fields}".encode("latin-1")
    return [b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body) for body in plan.bodies]


def count_connections(plan: LoadPlan, shard: int) -> int:
    """Return how many of the plan's connections a shard opens."""
    return plan.connections // plan.processes + (shard < plan.connections % plan.processes)


def send_shard(job: Job, stdin: BinaryIO, output_fd: int) -> None:
    """Connect, wait for the start, send the shard's shots, hand its record back."""
    plan, shard = job.plan, job.shard
    target = parse_url(plan.url)
    record = make_record(build_schedule(plan)[shard :: plan.processes], keep_bodies=plan.keep_bodies)
    pool = Pool(resolve(target, plan.unix), count_connections(plan, shard), plan.depth_max)
    try:
        pool.open(plan.unix or plan.url)
        generator = Generator(
            record, pool, build_requests(plan, target), first=shard, stride=plan.processes, spin=plan.spin
        )
        write_whole(output_fd, Ready())
        start = read_message(stdin)
        assert isinstance(start, Start)
        record.intended_ns += start.start_ns
        if not plan.spin:
            run_first_when_due()  # a spinning one would let nothing else run on its core
        os.set_blocking(output_fd, False)
        cpu_s = time.process_time()
        generator.run(
            start.start_ns + round((plan.duration_s + plan.drain_s) * NS_PER_S),
            lambda sent, answered, failed: write_if_taken(output_fd, Progress(sent, answered, failed)),
        )
        cpu_s = time.process_time() - cpu_s
    finally:
        pool.close()
    os.set_blocking(output_fd, True)
    write_whole(output_fd, pack_record(record, pool.reconnects, cpu_s))


def read_message(stdin: BinaryIO) -> Message:
    """Return the next message; end the process when the caller is gone."""
    length = stdin.read(LENGTH_BYTES)
    body = stdin.read(int.from_bytes(length, "little"))
    for message in take_messages(bytearray(length + body)):
        return message
    raise SystemExit(1)


def write_whole(output_fd: int, message: Message) -> None:
    """Write a message, waiting for the caller to read."""
    rest = memoryview(encode_message(message))
    while rest:
        rest = rest[os.write(output_fd, rest) :]


def write_if_taken(output_fd: int, message: Message) -> None:
    """Write a short message, or drop it when the caller reads too slowly; a pipe takes it whole or not at all."""
    try:
        os.write(output_fd, encode_message(message))
    except BlockingIOError:
        return


def run_first_when_due() -> None:
    """Take the lowest real-time priority, where that is allowed (root, CAP_SYS_NICE): who sleeps is woken at once.

    A sender that sleeps between shots takes little from its neighbours this way. With both cores kept busy by other
    programs, it brought the p99 schedule lag at 5,000/s from 3.9 ms to 1.0 ms (medians of nine runs each, in turn);
    a raised niceness changed nothing, since the kernel weighs whole sessions (sched(7), autogroup).
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main() -> None:
    """Do one job."""
    output_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not get between the messages
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    try:
        job = read_message(sys.stdin.buffer)
        assert isinstance(job, Job)
        send_shard(job, sys.stdin.buffer, output_fd)
    except TailraceError as error:
        write_whole(output_fd, Failure(error.what, error.where, error.next))
    except BrokenPipeError:
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
