from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from inference.protocol_server import ProtocolServer
from tailrace.cli.main import app

PIPELINE = """
import tailrace as tr

class Row(tr.Request):
    a: float

class Scored(tr.Response):
    score: float

far = tr.Pipeline(name="far", request=Row, response=Scored, features=[Row.a], budget=tr.Budget("2s"),
                  model=tr.RemoteModel("fraud", url="URL"))
"""


def test_check_says_where_a_remote_model_is_asked(tmp_path: Path) -> None:
    """The report names the address, its inputs and what fills them; a server that is gone is a mistake."""
    file = tmp_path / "far.py"
    with ProtocolServer(width=1) as server:
        file.write_text(PIPELINE.replace("URL", server.url()))
        told = CliRunner().invoke(app, ["check", str(file)], env={"COLUMNS": "200"})
        assert told.exit_code == 0
        assert f"The model fraud is asked at {server.url()}." in told.output
        (report,) = json.loads(CliRunner().invoke(app, ["check", str(file), "--json"]).stdout)
        assert report["remote_models"] == [{"name": "fraud", "url": server.url(), "rows_best": 256}]
        assert report["inputs"] == [{"input": "a", "dtype": "float32", "from": "request field"}]
        assert not report["warnings"]
    told = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert told.exit_code == 1
    assert "start the server, or declare inputs and output" in json.loads(told.stdout)[0]["problems"][0]["next"]
