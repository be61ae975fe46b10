"""The document against its server: what schemathesis makes of it is answered as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from serving import serving
from typer.testing import CliRunner

from tailrace.cli.main import app

pytest.importorskip("schemathesis")

RUN_S_MAX: Final = 240.0
EXAMPLES: Final = 200
UNBOUNDED: Final = {
    "payment": "",
    "ranking": "budget: float",
    "activity": "    amount: float",
}
"""Files, and in each the field whose numbers may be none to the model (1e301), which is answered 500."""
HOOKS: Final = '''"""What schemathesis is to know beyond the document."""

import msgspec
import schemathesis


def each(value, change):
    if isinstance(value, dict):
        return {name: each(item, change) for name, item in value.items()}
    return [each(item, change) for item in value] if isinstance(value, list) else change(value)


def whole(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def narrow(value):
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


@schemathesis.hook
def map_body(context, body):
    """JSON Schema takes 5.0 for an integer; the document says in words that a whole number has no fraction."""
    return each(body, whole)


@schemathesis.serializer("application/msgpack")
def write(context, value):
    """MessagePack has no wider integers."""
    return msgspec.msgpack.encode(each(value, narrow))


@schemathesis.deserializer("application/msgpack")
def read(context, response):
    return msgspec.msgpack.decode(response.content)
'''
SETTINGS: Final = """\
[generation]
with-security-parameters = false

[checks]
# A call that asks for less time than it takes is refused, as the document says.
not_a_server_error.expected-statuses = ["2xx", "4xx", 503, 504]
positive_data_acceptance.expected-statuses = ["2xx", 503, 504]

[[operations]]
# Whether an event is too old, or ahead of the clock, no schema says.
include-path-regex = "^/v1/streams/"
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(pipelines_dir: Path, tmp_path: Path) -> None:
    """What fits the document is accepted, and all else refused, as it tells; and nothing without a key."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    for name, field in UNBOUNDED.items():
        text = (pipelines_dir / f"{name}.py").read_text()
        bounded = field.replace("float", "Annotated[float, tr.Field(ge=0, le=1e6)]")
        text = text.replace(field, bounded, 1) if field else text
        (tmp_path / f"{name}.py").write_text(
            text.replace("import tailrace", "from typing import Annotated\nimport tailrace")
        )
    first, *others = (tmp_path / f"{name}.py" for name in UNBOUNDED)
    keys = str(tmp_path / "keys.json")
    made = CliRunner().invoke(app, ["keys", "create", "all", "--pipeline", "*", "--stream", "*", "--keys", keys])
    key = made.stdout.split()[-1]
    options = (*map(str, others), "--store", f"lmdb:{tmp_path / 'store'}", "--keys", keys)
    with serving(tmp_path / "log", first, *options) as server:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--mode", "all",
             "--max-examples", str(EXAMPLES), "--seed", "1", "--generation-database", "none", "--no-color",
             "--header", f"Authorization: Bearer {key}"],
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, timeout=RUN_S_MAX, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
