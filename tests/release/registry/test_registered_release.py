"""A release of a registered version: an alias is looked up when it is made, and what is served is the copy.

Each fetch is a process; so most are among the slow tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.errors import ModelPackageError, RegistryError
from tailrace.inference.loading import load_model
from tailrace.release.pin import pin, pin_again
from tailrace.release.pinned import Pin, Release
from tailrace.release.registry.child import RegistryChoice
from tailrace.release.registry.envelope import Signer
from tailrace.release.registry.notes import set_alias
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import Registry, open_registry
from tailrace.release.settle import settle, with_pinned_models
from tailrace.server.declared import load_all

PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.Model("pay", {model}), budget=tr.Budget("50ms"))
"""


@pytest.fixture
def registry(tmp_path: Path, packaged: Path) -> Registry:
    """Return a registry with two versions, of which `production` is the first."""
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for name in ("one", "two"):
        register(registry, packaged / name, "fraud")
    set_alias(registry, "production", "fraud", 1)
    return registry


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline's file whose model is what production is."""
    return written(tmp_path, 'version="fraud@production"')


def written(tmp_path: Path, model: str) -> Path:
    """Return a pipeline's file with a model declared so."""
    (tmp_path / "app").mkdir(exist_ok=True)
    (tmp_path / "app" / "pipeline.py").write_text(PIPELINE.format(model=model))
    return tmp_path / "app" / "pipeline.py"


def settled(pinned: Pin, registry: Registry, *trusted: Path) -> Release:
    """Return the release of a pin."""
    return settle(pinned, load_all(pinned), RegistryChoice(registry.url, tuple(map(str, trusted))))


def test_alias_that_moves_changes_nothing_that_is_served(file: Path, registry: Registry, tmp_path: Path) -> None:
    """A worker that comes later has the version of its release; the next release has the new one."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        first = settled(pinned, registry)
        set_alias(registry, "production", "fraud", 2)
        assert settled(pinned, registry) == first
        again = settled(pin_again(pinned), registry)
        assert [each.models[0].registered for each in (first, again)] == ["fraud@1", "fraud@2"]
        digests = [registry.version("fraud", number).record.digest for number in (1, 2)]
        assert [each.models[0].registered_digest for each in (first, again)] == digests
        assert first.id != again.id
        assert first.models[0].directory == registry.url


def test_registry_that_is_deleted_is_nothing_to_what_is_served(
    file: Path, registry: Registry, tmp_path: Path, packaged: Path
) -> None:
    """The copy is whole without it; only a new release needs it, and says so."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        release = settled(pinned, registry)
        shutil.rmtree(registry.url)
        (pipeline,) = load_all(pinned)
        served = load_model(with_pinned_models(pipeline, release).model.path)  # type: ignore[attr-defined]
        assert served.version == load_model(packaged / "one").version
        assert settled(pinned, registry) == release
        with pytest.raises(RegistryError, match="there is no registry"):
            settled(pin_again(pinned), registry)


@pytest.mark.slow
def test_release_holds_its_version(file: Path, registry: Registry, tmp_path: Path) -> None:
    """The registry knows for a while who serves a version: one hold, however often the server starts."""
    for _ in range(2):
        with pin([str(file)], str(tmp_path / "kept")) as pinned:
            settled(pinned, registry)
    (hold,) = registry.holds("fraud", 1).values()
    assert hold.why == f"served from {tmp_path / 'kept'}"
    set_alias(registry, "production", "fraud", 2)
    assert registry.holders("fraud", 1)


@pytest.mark.slow
def test_version_that_is_not_trusted_is_not_served(
    file: Path, registry: Registry, packaged: Path, keys: Path, tmp_path: Path
) -> None:
    """With a trusted key an unsigned version is refused before it is served; a signed one is taken."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        with pytest.raises(RegistryError, match="it is not signed"):
            settled(pinned, registry, keys / "trusted.pem")
        register(registry, packaged / "one", "fraud", signer=Signer.read(keys / "sign.pem"))
        set_alias(registry, "production", "fraud", 3)
        assert settled(pinned, registry, keys / "trusted.pem").models[0].registered == "fraud@3"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "said"),
    [('version="fraud@absent"', "no alias 'absent'"), ('version="fraud@7"', "no such version"),
     ('version="fraud@1", registry="nowhere"', "there is no registry")],
)  # fmt: skip
def test_version_that_is_not_there_is_told(model: str, said: str, registry: Registry, tmp_path: Path) -> None:
    """The error of the registry comes through, and nothing is served."""
    with pin([str(written(tmp_path, model))], str(tmp_path / "kept")) as pinned:
        with pytest.raises(RegistryError, match=said):
            settled(pinned, registry)
        assert not pinned.release_file.exists()


def test_version_without_a_registry_is_told(file: Path, tmp_path: Path) -> None:
    """The error says the three places where one may name it."""
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        with pytest.raises(RegistryError, match="no registry is named") as caught:
            settle(pinned, load_all(pinned))
        assert "TAILRACE_REGISTRY" in caught.value.next


@pytest.mark.slow
def test_version_of_a_bucket_is_released(file: Path, packaged: Path, s3_url: str, tmp_path: Path) -> None:
    """What fetches is a process of its own: the worker's never imports boto3."""
    registry = open_registry(s3_url, create=True)
    register(registry, packaged / "one", "fraud")
    set_alias(registry, "production", "fraud", 1)
    script = (
        "import sys\nfrom pathlib import Path\nfrom tailrace.release.pin import pin\n"
        "from tailrace.release.registry.child import RegistryChoice\nfrom tailrace.server.served import load_release\n"
        "with pin([sys.argv[1]], sys.argv[2]) as pinned:\n"
        "    _, release = load_release(pinned, RegistryChoice(sys.argv[3]))\n"
        "    assert (Path(release.models[0].copy) / 'manifest.json').is_file()\n"
        "    print(release.models[0].registered, 'boto3' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(file), str(tmp_path / "kept"), s3_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "fraud@1 False\n", done.stderr
    assert [hold.why for hold in registry.holds("fraud", 1).values()] == [f"served from {tmp_path / 'kept'}"]


def test_check_fetches_what_would_be_served(file: Path, registry: Registry, tmp_path: Path) -> None:
    """`tailrace check` compiles the version that the alias names now, and leaves nothing of it; it needs no release."""
    done = CliRunner().invoke(app, ["check", str(file), "--registry", registry.url, "--json"])
    assert json.loads(done.output)[0]["ok"], done.output
    assert [path.name for path in file.parent.iterdir() if path.name != "__pycache__"] == ["pipeline.py"]
    assert registry.holds("fraud", 1) == {}
    with pytest.raises(RegistryError, match="no registry is named"):
        raise CliRunner().invoke(app, ["check", str(file)]).exception or AssertionError


def test_version_that_is_not_fetched_says_how(file: Path) -> None:
    """Whoever compiles without a release is told how to have the version beside the file."""
    with pytest.raises(ModelPackageError, match="no such model directory") as caught:
        load_model(file.parent / "models" / "fraud@production")
    assert caught.value.next.startswith("fetch it: tailrace models fetch fraud@production --out ")


@pytest.mark.slow
def test_registry_of_the_declaration_comes_first(registry: Registry, tmp_path: Path) -> None:
    """A directory is found beside the pipeline's file."""
    file = written(tmp_path, 'version="fraud@2", registry="../registry"')
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        release = settle(pinned, load_all(pinned), RegistryChoice("/nowhere"))
        assert release.models[0].registered == "fraud@2"
