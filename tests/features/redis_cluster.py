"""A real Redis Cluster: three masters, each with a replica, on free ports of the loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redis_server import RedisServer, wait_until

from tailrace.features.stores.redis_slots import SLOTS, slot_of
from tailrace.loadtest.processes import free_port

MASTERS = 3
NODE_TIMEOUT_MS = 1_000
"""How long a node that does not answer is waited for before a replica takes its place."""


class RedisCluster:
    """Six nodes, the first three of which are the masters when it starts."""

    def __init__(self, folder: Path) -> None:
        self.nodes: list[RedisServer] = []
        self._bus_ports: list[int] = []
        for number in range(2 * MASTERS):
            own = folder / str(number)
            own.mkdir(parents=True)
            self._bus_ports.append(free_port())
            self.nodes.append(RedisServer(own, _options(self._bus_ports[-1])))

    @property
    def url(self) -> str:
        """Where some of its nodes listen."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"

    def start(self) -> None:
        """Start the nodes, share the slots out, and wait until all agree."""
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < MASTERS:
                begin, end = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1
                node.ask("CLUSTER", "ADDSLOTSRANGE", begin, end)
            if number:
                node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, self._bus_ports[0])
        wait_until(lambda: all(len(self._lines(node)) == len(self.nodes) for node in self.nodes), "they have not met")
        for number in range(MASTERS):
            self.nodes[MASTERS + number].ask("CLUSTER", "REPLICATE", self.id_of(self.nodes[number]))
        self.wait_until_whole()

    def kill(self) -> None:
        """End the nodes without a word."""
        for node in self.nodes:
            node.kill()

    def empty(self) -> None:
        """Remove every key."""
        for master in self.masters():
            master.ask("FLUSHALL")

    def masters(self) -> list[RedisServer]:
        """Return the nodes that are masters now."""
        return [node for node in self.nodes if node.is_running and node.ask("ROLE")[0] == b"master"]

    def master_of(self, slot: int) -> RedisServer:
        """Return the node that has a slot."""
        for begin, end, (_, port, *_), *_ in self._running()[0].ask("CLUSTER", "SLOTS"):
            if begin <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def id_of(self, node: RedisServer) -> str:
        """Return how the nodes call one of them."""
        return node.ask("CLUSTER", "MYID").decode()  # type: ignore[no-any-return]

    def wait_until_whole(self) -> None:
        """Wait until every node that runs sees every slot served, and each master there has a replica in step."""
        wait_until(lambda: all(map(self._is_whole, self._running())), "the cluster is not whole")
        replicas = len(self._running()) - MASTERS
        wait_until(lambda: sum(map(_replicas, self.masters())) >= replicas, "a replica is not in step")

    def begin_to_move(self, slot: int, target: RedisServer, keys: Sequence[bytes]) -> None:
        """Let a slot begin to move to another master, with some of its keys there already."""
        source = self.master_of(slot)
        assert all(slot_of(key) == slot for key in keys)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        for key in keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)

    def end_to_move(self, slot: int, target: RedisServer) -> None:
        """Move the rest of a slot's keys, and let all know."""
        source = self.master_of(slot)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)
        for node in [target, source, *self.masters()]:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def _running(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.is_running]

    def _is_whole(self, node: RedisServer) -> bool:
        slots = sum(end - begin + 1 for begin, end, *_ in node.ask("CLUSTER", "SLOTS"))
        return b"cluster_state:ok" in node.ask("CLUSTER", "INFO") and slots == SLOTS

    def _lines(self, node: RedisServer) -> list[bytes]:
        lines: list[bytes] = node.ask("CLUSTER", "NODES").splitlines()
        return [line for line in lines if b"handshake" not in line]


def _options(bus_port: int) -> list[str]:
    return ["--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout",
            str(NODE_TIMEOUT_MS), "--repl-diskless-sync-delay", "0"]  # fmt: skip


def _replicas(master: RedisServer) -> int:
    return len(master.ask("ROLE")[2])
