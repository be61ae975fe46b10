"""The port of gRPC, kept by the supervisor for its workers, each of which binds it itself.

gRPC's library takes no socket that is open already. So the supervisor claims the port as it does its own, binds it too
(SO_REUSEPORT), and never listens: nobody else gets it while the server runs, also where it was chosen by the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from tailrace.errors import SetupError
from tailrace.server.slots import open_slots

NEEDED = ("grpc", "google.protobuf", "grpc_health", "grpc_reflection")


class GrpcPort:
    """A port that is kept. Raises SetupError where it cannot be had, or what serves it is not installed."""

    def __init__(self, host: str, port: int, *, warn: Callable[[str], None]) -> None:
        check_installed()
        (self._slot,) = open_slots(host, port, 1, warn=warn)
        self.host, self.port = self._slot.listener.getsockname()[:2]

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Let it go."""
        self._slot.close()


def check_installed() -> None:
    """Raise SetupError where the libraries are not there that gRPC needs."""
    for name in NEEDED:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise SetupError("gRPC needs grpcio and what goes with it", where="grpc_port",
                             next="pip install 'tailrace[grpc]'")  # fmt: skip
