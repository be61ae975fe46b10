"""The documentation is true: what the code has is documented, and what is documented works as it stands there."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import tailrace
from doc_pages import DOCS, PAGES, ROOT, TEXTS, Block, anchors, blocks, links, name, plain, prose
from documented_models import train
from programs import find_program
from tailrace import errors
from tailrace.cli.main import app
from tailrace.compile.loading import load_pipelines
from tailrace.compile.resolve import wire
from tailrace.compile.samples import Samples
from tailrace.deadline import LAYERS
from tailrace.features import catalogue
from tailrace.inference import manifest
from tailrace.inference.declaration import models_of
from tailrace.loadtest.processes import free_ports, start, wait_ready
from tailrace.monitor.metrics import DEGRADED_REASONS, METRICS, PROVENANCES, SHED_REASONS, error_kinds, slug
from tailrace.monitor.recent import Latencies, Quantiles
from tailrace.monitor.snapshot import PipelineSnapshot, Timing
from tailrace.response.problem import ProblemDetails
from tailrace.server.admin import Status
from tailrace.server.options import ServeOptions
from tailrace.testing import TestClient

REFERENCE = DOCS / "reference"
TUTORIAL = DOCS / "tutorial.md"
END_S_MAX = 60.0
COMMAND_S_MAX = 100.0


def load_tables() -> ModuleType:
    """Return docs/tables.py as a module."""
    spec = importlib.util.spec_from_file_location("doc_tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = load_tables()
COMMANDS = TABLES.commands()


def documented(page: str) -> str:
    """Return the text of a page of the reference."""
    return TEXTS[REFERENCE / page]


# -- what the code has is documented ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.name)
def test_table_is_what_the_code_says(page: Path) -> None:
    """A table of the reference is the one that `python docs/tables.py` writes today."""
    assert TABLES.filled(TEXTS[page]) == TEXTS[page], "run `python docs/tables.py`"


def test_every_table_stands_in_the_reference() -> None:
    """No table is written and not shown."""
    shown = {match[2] for page in REFERENCE.glob("*.md") for match in TABLES.MARKED.finditer(TEXTS[page])}
    assert shown == set(TABLES.TABLES)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_documented_with_every_flag(command: str) -> None:
    """A command has its section, and each of its flags and arguments a line with its help."""
    section = documented("cli.md").partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    for parameter in COMMANDS[command].params:
        assert parameter.help, f"{command} {parameter.name} has no help"
        assert parameter.help in section
        assert parameter.param_type_name == "argument" or f"`{parameter.opts[0]}`" in section


def test_command_lists_itself_in_the_help_and_examples() -> None:
    """A command's help teaches with an example of itself."""
    for command, found in COMMANDS.items():
        assert f"    tailrace {command} " in found.help


@pytest.mark.parametrize("field", msgspec.structs.fields(ServeOptions), ids=lambda field: field.name)
def test_setting_is_documented_with_its_default(field: Any) -> None:
    """A setting of the server has its flag, and the default of the flag is the setting's."""
    (flag,) = (parameter for parameter in COMMANDS["serve"].params if parameter.name == field.name)
    default = () if flag.default is None and field.default == () else flag.default  # typer knows only lists
    assert field.default is msgspec.NODEFAULT or default == field.default
    assert f"| `{field.name}` |" in documented("settings.md")


def test_environment_variables_are_those_that_are_read() -> None:
    """A variable of which a flag's value comes where it is not given stands beside the settings, and no other does."""
    read = {parameter.envvar for command in COMMANDS.values() for parameter in command.params if parameter.envvar}
    told = set(re.findall(r"\$((?:TAILRACE|OTEL|MLFLOW)_[A-Z_]+)", documented("settings.md")))
    assert told >= read
    assert {name for name in told if name.startswith("TAILRACE_")} <= read


@pytest.mark.parametrize("metric", METRICS)
def test_metric_is_documented(metric: str) -> None:
    """A metric has its line."""
    assert f"| `{metric}` | {METRICS[metric].kind} |" in documented("metrics.md")


@pytest.mark.parametrize("value", [*DEGRADED_REASONS.values(), *SHED_REASONS, *PROVENANCES, *LAYERS])
def test_label_value_is_documented(value: str) -> None:
    """The values that a metric's labels take are told."""
    assert f"`{value}`" in documented("metrics.md")


@pytest.mark.parametrize("kind", error_kinds(), ids=lambda kind: kind.__name__)
def test_serving_error_is_documented_with_its_status(kind: Any) -> None:
    """An error that answers a call has its line with status and type, and its status stands in the HTTP API."""
    assert f"`{kind.__name__}` | {kind.status} | `urn:tailrace:{slug(kind)}` |" in documented("errors.md")
    assert kind is errors.OutOfTimeError or str(kind.status) in documented("http.md")


def test_setup_errors_are_documented() -> None:
    """The errors before traffic have their lines."""
    for kind in (errors.SetupError, *errors.SetupError.__subclasses__()):
        assert f"`{kind.__name__}`" in documented("errors.md")


@pytest.mark.parametrize("public", tailrace.__all__)
def test_public_name_is_documented(public: str) -> None:
    """Every public name stands in the reference of the declaration."""
    assert re.search(rf"\btr\.{public}\b", documented("pipeline.md"))


@pytest.mark.parametrize(
    ("page", "struct"),
    [("http.md", ProblemDetails), ("http.md", Status), ("http.md", PipelineSnapshot), ("http.md", Timing),
     ("http.md", Latencies), ("http.md", Quantiles),
     ("model-directory.md", manifest.Manifest), ("model-directory.md", manifest.ModelSource),
     ("model-directory.md", manifest.NumberProfile), ("model-directory.md", manifest.TextProfile),
     ("packed-row.md", catalogue.ViewRecord), ("packed-row.md", catalogue.SchemaRecord)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_members_are_documented(page: str, struct: Any) -> None:
    """Whoever reads our JSON finds every member of it explained."""
    for field in msgspec.structs.fields(struct):
        assert re.search(rf"`(\w+\.)?{field.name}(\.\w+)?(\[\])?`|`{field.name}\.", documented(page)), field.name


def test_pipeline_arguments_are_documented() -> None:
    """Every argument of `tr.Pipeline` has its line; two folders are the loader's own."""
    for argument in set(tailrace.Pipeline.__dataclass_fields__) - {"base_dir", "sources_dir"}:
        assert re.search(rf"^\| .*`{argument}`.* \|", documented("pipeline.md"), re.MULTILINE), argument


# -- what is documented is there --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_link_resolves(page: Path) -> None:
    """A relative link leads to a file of the project, and its fragment to a heading there."""
    for target in links(page):
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} leads nowhere"
        assert not fragment or fragment in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_text_exist(page: Path) -> None:
    """A metric, a flag or a make target that a page names is one that there is."""
    text = TEXTS[page]
    for metric in set(re.findall(r"\btailrace_[a-z_]+", text)):
        assert re.sub(r"_(bucket|sum|count)$", "", metric) in METRICS or metric in METRICS, metric
    flags = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    for flag in re.findall(r"`(--[a-z-]+)", prose(page)):
        assert flag in flags | {"--version", "--help"}, flag
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^\$ |^)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_command_line_is_read(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line that is shown is one that the command line takes."""
    monkeypatch.setenv("TAILRACE_REGISTRY", "registry")  # as the pages say once, at their beginning
    for block in blocks(page):
        if block.language == "python":
            continue
        for line in re.findall(r"(?:^\$ |[/ ])tailrace ([a-z][a-z-]* [^|&>\n]*)", block.text, re.MULTILINE):
            words = shlex.split(line.replace("…", ""))
            name = words[0] if words[0] in COMMANDS else " ".join(words[:2])
            words = words[len(name.split()) :]
            COMMANDS[name].make_context(name, words if words != ["--help"] else ["FILE"])
    for line in re.findall(r"`tailrace ([a-z][a-z-]*)", prose(page)):
        assert line in {command.partition(" ")[0] for command in COMMANDS}


def test_version_is_told() -> None:
    """`tailrace --version` is what the package says, and 80 columns hold every help."""
    told = run_shell("tailrace --version", ROOT, {"COLUMNS": "80"})
    assert told.strip() == f"tailrace {tailrace.__version__}"
    for command in COMMANDS:
        told = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
        assert told.exit_code == 0
        assert 40 < max(map(len, told.output.splitlines())) <= 80


# -- what is documented works -----------------------------------------------------------------------------------------

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
PIPELINES = [block for block in PYTHON if "tr.Pipeline(" in block.text and block.title is None]


def place(block: Block) -> str:
    """Return where a block stands."""
    return f"{name(block.page)}:{block.line}"


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of Python is whole: it runs as a file. Titled files are run where their commands are."""
    tree = ast.parse(block.text, filename=place(block))
    if block.title is None:
        monkeypatch.chdir(tmp_path)
        exec(compile(tree, place(block), "exec"), {"__name__": "documented"})  # our own text, and nothing else


@pytest.mark.parametrize("block", PIPELINES, ids=place)
def test_declared_pipeline_answers(block: Block, tmp_path: Path) -> None:
    """A pipeline that is shown compiles beside a model trained on its features, and answers with its response."""
    path = tmp_path / "pipeline.py"
    path.write_text(block.text)
    (pipeline,) = load_pipelines(path)
    features = wire(pipeline).features
    for model in models_of(pipeline.model):
        train(pipeline, features, model.name, model.directory(tmp_path))
    with TestClient.of_file(path) as client:
        answer = msgspec.json.decode(client.predict_bytes(Samples(client.plan).body(1)))
    assert set(answer) == {field.name for field in msgspec.structs.fields(pipeline.response)}


def run_shell(command: str, folder: Path, more: dict[str, str] | None = None) -> str:
    """Return what a command prints; an exit code but 0 is a failure, unless a busy machine spoils a load run."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=environment() | (more or {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_S_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "tailrace bench" in command, f"$ {command}\n{done.stdout}"
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of a reader who has activated this venv."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
        "TERM": "dumb",
    }


def run_page(page: Path, folder: Path) -> None:
    """Do what a page says, in order: write its files, run its commands, and compare what is printed."""
    ports = free_ports(2)
    with contextlib.ExitStack() as running:
        for block in blocks(page):
            if block.title is not None:
                (folder / block.title).write_text(block.text)
            if not block.is_run:
                continue
            for shown_command, shown in block.commands():
                command = shown_command.replace(":8080", f":{ports[0]}").replace(":8081", f":{ports[1]}")
                if command == "kill %1":
                    running.close()
                elif command.endswith(" &"):
                    running.enter_context(background(command.removesuffix(" &"), folder, ports))
                else:
                    compare(command, run_shell(command, folder), shown)


def compare(command: str, printed: str, shown: list[str]) -> None:
    """Find every shown line, numbers aside, in what was printed; of a load run, whose results differ, its words."""
    lines = {plain(line) for line in printed.splitlines()}
    words = {line.split(" ")[0] for line in lines}
    for line in shown:
        if re.search(r"\w", line):
            found = plain(line) in lines or ("tailrace bench" in command and plain(line).split(" ")[0] in words)
            assert found, f"$ {command}\nshows {plain(line)!r}; printed was\n{printed}"


@contextlib.contextmanager
def background(command: str, folder: Path, ports: Sequence[int]) -> Iterator[None]:
    """Run a server until the block ends; it is ready when this yields, and drains to exit code 0."""
    words = [*shlex.split(command), "--port", str(ports[0]), "--admin-port", str(ports[1])]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    with contextlib.ExitStack() as stack:
        server = start(stack, command, words, folder / "serve.log", env=environment(), cwd=folder)
        wait_ready(server, f"http://127.0.0.1:{ports[0]}/readyz")
        yield
        server.popen.terminate()
        assert server.popen.wait(END_S_MAX) == 0


@pytest.fixture(scope="module")
def tutorial_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a reader who has done the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    run_page(TUTORIAL, folder)
    return folder


def test_tutorial_works_as_it_stands(tutorial_dir: Path) -> None:
    """Every file and command of the tutorial, in order, gives what is shown there."""
    model = json.loads((tutorial_dir / "models" / "paylater" / "manifest.json").read_text())
    assert model["name"] == "paylater"
    assert (tutorial_dir / ".tailrace" / "store").is_dir()


RUN = [page for page in PAGES if page != TUTORIAL and any(block.is_run for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_page_after_the_tutorial_works_as_it_stands(page: Path, tutorial_dir: Path, tmp_path: Path) -> None:
    """A page that goes on from the tutorial's files does what it says."""
    folder = shutil.copytree(tutorial_dir, tmp_path / "page", ignore=shutil.ignore_patterns("__pycache__"))
    run_page(page, folder)


def test_nginx_block_is_taken(tmp_path: Path) -> None:
    """Nginx reads the configuration that is shown, its certificate and port aside."""
    nginx = find_program("nginx", "nginx-light")
    (block,) = (found for page in PAGES for found in blocks(page) if found.language == "nginx")
    server = re.sub(r"ssl_certificate\S*\s+\S+;", "", block.text).replace("443 ssl", f"unix:{tmp_path}/socket")
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/log;\nevents {{}}\nhttp {{\naccess_log off;\n{folders}{server}}}\n"
    )
    told = subprocess.run(
        [nginx, "-t", "-p", str(tmp_path), "-e", str(tmp_path / "log"), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
