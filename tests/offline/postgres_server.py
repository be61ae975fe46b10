"""A real Postgres server of a test's own: its files in a folder, a socket there, and a free port of the loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from tailrace.loadtest.processes import free_port

READY_S_MAX = 20.0
PASSWORD = "s3cret-word"
FAST = ("-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=10", "-c", "autovacuum=off")


class PostgresServer:
    """Starts and stops one server by its own pid; of root it is run by another user, since it refuses root.

    url: of the database over the loopback, without the password, which `PASSWORD` is. Over the socket none is asked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"postgresql://tailrace@127.0.0.1:{self.port}/postgres"
        self._programs = find_server_programs()
        self._user = None
        if os.getuid() == 0:
            self._user = next(each for each in pwd.getpwall() if each.pw_name in {"postgres", "nobody"})
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> None:
        """Start it, the first time with a new cluster, and wait until it answers."""
        if not self._data.exists():
            word = self._folder / "password"
            word.write_text(PASSWORD)
            word.chmod(0o644)
            command = [self._programs / "initdb", "-D", self._data, "-U", "tailrace", "--auth-local=trust",
                       "--auth-host=scram-sha-256", "--pwfile", word, "--no-sync", "-E", "UTF8",
                       "--locale=C"]  # fmt: skip
            assert self._popen(command).wait(READY_S_MAX) == 0, (self._folder / "log").read_text()
        self._process = self._popen([
            self._programs / "postgres", "-D", self._data, "-k", self._folder, "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", *FAST,
        ])  # fmt: skip
        end_s = time.monotonic() + READY_S_MAX
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "postgres ended"
                assert time.monotonic() < end_s, "postgres did not start"
                time.sleep(0.02)

    def execute(self, statement: str) -> None:
        """Run a statement as the database's owner."""
        with psycopg.connect(host=str(self._folder), port=self.port, user="tailrace", dbname="postgres") as connection:
            connection.execute(statement)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the database's owner."""
        with psycopg.connect(host=str(self._folder), port=self.port, user="tailrace", dbname="postgres") as connection:
            return connection.execute(query).fetchall()

    def pause(self) -> None:
        """Stop every process of it: connections stay, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        own = self._process.pid
        for each in [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]:
            with suppress(ProcessLookupError):
                os.kill(each, number)

    def stop(self) -> None:
        """End it, and wait until its processes are gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            self._process.wait(READY_S_MAX)
            self._process = None

    def _popen(self, command: list[Any]) -> subprocess.Popen[bytes]:
        if self._user is not None:
            # Postgres refuses root; and only root may enter the folder above a test's, which the capability allows.
            command = ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups",
                       "--inh-caps=+dac_override", "--ambient-caps=+dac_override", *command]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)


def find_server_programs() -> Path:
    """Return the folder of initdb and postgres: Debian keeps them out of PATH, a folder a version.

    Raises FileNotFoundError.
    """
    if found := shutil.which("initdb"):
        return Path(found).parent
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not newest:
        raise FileNotFoundError("initdb is missing: apt-get install postgresql")
    return newest[-1].parent
