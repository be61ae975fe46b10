"""A real Redis with a replica, watched by three sentinels, on free ports of the loopback."""

from __future__ import annotations

from pathlib import Path

from redis_server import RedisServer, wait_until

SERVICE = "features"
DOWN_AFTER_MS = 500


class Sentinel(RedisServer):
    """One sentinel; it keeps what it knows in its file."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        self._file = folder / "sentinel.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )

    def arguments(self) -> list[str]:
        """Return what the program is started with."""
        return [str(self._file), "--sentinel"]


class RedisSentinels:
    """Two servers, one of which is the master, and three sentinels."""

    def __init__(self, folder: Path) -> None:
        folders = [folder / str(number) for number in range(5)]
        for each in folders:
            each.mkdir(parents=True)
        first = RedisServer(folders[0], ["--repl-diskless-sync-delay", "0"])
        second = RedisServer(folders[1], ["--repl-diskless-sync-delay", "0", "--replicaof", f"127.0.0.1 {first.port}"])
        self.servers = [first, second]
        self.sentinels = [Sentinel(each, first) for each in folders[2:]]

    @property
    def url(self) -> str:
        """Where the sentinels listen."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def start(self) -> None:
        """Start all, and wait until the sentinels can agree on another master."""
        for each in [*self.servers, *self.sentinels]:
            each.start()
        self.wait_until_whole()

    def kill(self) -> None:
        """End all without a word."""
        for each in [*self.sentinels, *self.servers]:
            each.kill()

    def empty(self) -> None:
        """Remove every key."""
        self.master().ask("FLUSHALL")

    def master(self) -> RedisServer:
        """Return the server that the sentinels name."""
        _, port = self.sentinels[0].ask("SENTINEL", "get-master-addr-by-name", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def wait_until_whole(self) -> None:
        """Wait until every sentinel knows the others and a replica in step."""
        wait_until(lambda: all(map(_can_fail_over, self.sentinels)), "the sentinels do not agree")
        wait_until(lambda: len(self.master().ask("ROLE")[2]) == 1, "the replica is not in step")


def _can_fail_over(sentinel: RedisServer) -> bool:
    sentinel.ask("SENTINEL", "CKQUORUM", SERVICE)  # an error where there is none
    state = sentinel.ask("SENTINEL", "MASTER", SERVICE)
    if isinstance(state, list):
        state = dict(zip(state[::2], state[1::2], strict=True))
    told = {_text(name): _text(value) for name, value in state.items()}
    replicas = sentinel.ask("SENTINEL", "REPLICAS", SERVICE)
    return told["num-other-sentinels"] == "2" and told["flags"] == "master" and len(replicas) == 1


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
