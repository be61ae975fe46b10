"""Where the `tailrace` command begins: what it does before it imports what it is made of."""

from __future__ import annotations

import sys

from tailrace.core_share import begin_giving_way


def main() -> None:
    """Run the command line. A server that starts gives way to those that serve, from its first import on."""
    if sys.argv[1:2] == ["serve"]:
        begin_giving_way()
    from tailrace.cli.main import main as run

    run()
