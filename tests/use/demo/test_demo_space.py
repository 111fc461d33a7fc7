"""The folder of a Hugging Face Space: whole, and able to run by itself."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml

from alexnet.model import AlexNet_2012
from alexnet.use.demo.network import Network
from alexnet.use.demo.space import PACKAGES, read_examples, write_space
from alexnet.weights.checkpoint import load_weights
from tiny import WIDTHS

pytest.importorskip("gradio", reason="needs gradio: pip install 'alexnet-2012[demo]'")


@pytest.fixture(scope="module")
def space(model: AlexNet_2012, dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spaces") / "mine"
    files = write_space(Network(model, dataset, device="cpu"), folder)
    assert files == [
        ".gitattributes", "LICENSE", "README.md", "alexnet/", "app.py", "examples/", "model.safetensors",
        "requirements.txt",
    ]  # fmt: skip
    return folder


def test_front_matter(space: Path) -> None:
    _, head, body = (space / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert front["sdk_version"].count(".") == 2
    assert front["python_version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert r"\<img src=x onerror=alert\(1\)\>" in body  # a class's name means nothing to Markdown
    assert "7 classes and nothing else" in body


def test_weights_and_examples_are_those_of_the_network(space: Path, model: AlexNet_2012) -> None:
    weights, card = load_weights(space / "model.safetensors")
    assert card == model.card
    assert all(weights[name].equal(value.cpu()) for name, value in model.state_dict().items())
    examples = read_examples(space / "examples")
    assert [each.label for each in examples] == json.loads((space / "examples" / "labels.json").read_text())
    assert len(examples) == 10


def test_the_package_travels_without_what_was_compiled(space: Path) -> None:
    assert (space / "alexnet" / "report" / "templates" / "demo" / "style.css").is_file()
    assert not list(space.rglob("__pycache__"))
    assert not [path for path in space.rglob("*") if path.is_symlink()]


def test_nothing_of_this_machine_is_in_it(space: Path) -> None:
    for name in ("app.py", "README.md", "requirements.txt"):
        assert str(Path.home()) not in (space / name).read_text()
        assert str(space) not in (space / name).read_text()
    versions = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert set(versions) == set(PACKAGES)
    assert "+" not in "".join(versions.values())


def test_a_folder_with_something_in_it_is_left_alone(space: Path, network: Network) -> None:
    with pytest.raises(ValueError, match=r"^--space .*: already exists; name another folder$"):
        write_space(network, space)


def needed(package: str) -> list[str]:
    """What a package needs, without its extras."""
    return [re.split(r"[^\w-]", name)[0].lower() for name in requires(package) or [] if "extra ==" not in name]


def installed(packages: Iterable[str]) -> set[str]:
    """These packages and all that comes with them."""
    found, left = set(), list(packages)
    while left:
        if (package := left.pop()) not in found:
            found.add(package)
            with contextlib.suppress(PackageNotFoundError):  # for another system or Python
                left += needed(package)
    return found


# The small network under the names of the real ones; and what the Space does not install cannot be imported.
APP = """
import dataclasses, runpy, sys
sys.path.insert(0, {space!r})
for name in {absent!r}:
    sys.modules[name] = None
import alexnet
from alexnet.model import VARIANTS
VARIANTS.update({{name: dataclasses.replace(variant, widths={widths}) for name, variant in VARIANTS.items()}})
assert alexnet.__file__.startswith({space!r}), alexnet.__file__
import alexnet.use.demo as demo
serve = demo.serve
demo.serve = lambda network, host, port: serve(network, "127.0.0.1", {port})
runpy.run_path({app!r}, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs_with_the_packages_it_names_alone(space: Path) -> None:
    absent = sorted(set(needed("alexnet-2012")) - installed((*PACKAGES, "gradio")))
    assert {"wandb", "accelerate", "matplotlib"} <= set(absent)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = APP.format(widths=WIDTHS, absent=absent, space=str(space), port=port, app=str(space / "app.py"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=space.parent, stderr=subprocess.PIPE)
    try:
        until, body = time.monotonic() + 900, b""
        while not body and process.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
                    body = answer.read()
            except OSError:
                time.sleep(0.3)
        assert b"It knows 7 classes and nothing else" in body
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        print(process.communicate()[1].decode())
