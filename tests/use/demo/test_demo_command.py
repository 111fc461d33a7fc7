"""``alexnet demo``: which network and which data it opens, what it says before it serves, what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet.cli import main
from alexnet.model import AlexNet_2012
from alexnet.use.demo import server
from alexnet.weights.checkpoint import save_weights


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was to be served, and when it was waited for; nothing is."""
    calls: list[tuple] = []

    def serve(network, host, port):
        calls.append((network, host, port))
        return SimpleNamespace(url="http://127.0.0.1:7/", wait=lambda: calls.append(("waited",)))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(server, "need_gradio", lambda: None)
    monkeypatch.setattr(server, "end_on_sigterm", lambda: None)
    return calls


@pytest.fixture
def weights(model: AlexNet_2012, tmp_path: Path, tiny_network: None) -> Path:
    save_weights(tmp_path / "best.safetensors", model.state_dict(), model.card)
    return tmp_path / "best.safetensors"


def config(folder: Path, **recipe) -> None:
    (folder / "config.json").write_text(json.dumps({"recipe": recipe}))


def test_it_says_where_the_page_is_and_goes_on(weights: Path, served: list, capsys) -> None:
    assert main(["demo", str(weights), "--data", "none", "--device", "cpu"]) == 0
    (network, host, port), waited = served
    assert (host, port, waited) == ("127.0.0.1", None, ("waited",))
    assert network.dataset is None
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:7/\nCtrl-C ends it\n"
    assert err == "without examples and nearest training images: --data none\n"
    assert main(["demo", str(weights), "--host", "0.0.0.0", "--port", "9", "--device", "cpu", "--json"]) == 0
    assert served[2][1:] == ("0.0.0.0", 9)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"url": "http://127.0.0.1:7/"}
    assert "no data set was named" in err


def test_the_runs_own_data_is_used_where_it_is_and_nothing_is_downloaded(weights: Path, served: list, capsys) -> None:
    folder = weights.parent
    config(folder, data="cifar10", data_dir=str(folder / "nothing here"))
    assert main(["demo", str(folder), "--device", "cpu"]) == 0
    assert served[0][0].dataset is None
    assert "downloaded when it is used" in capsys.readouterr().err
    config(folder, data="digits")  # of other classes than this network's
    assert main(["demo", str(folder), "--device", "cpu"]) == 2
    assert "its classes are not those of the model" in capsys.readouterr().err


def test_the_examples_are_those_that_the_run_held_out(
    model: AlexNet_2012, tmp_path: Path, tiny_network: None, served: list
) -> None:
    digits = AlexNet_2012(10)
    card = {"variant": "classic", "classes": tuple("0123456789"), "data": "digits", "record": {}}
    save_weights(
        tmp_path / "best.safetensors",
        digits.state_dict(),
        type(model.card)(normalization=model.card.normalization, **card),
    )
    config(tmp_path, data="digits", holdout=100)
    assert main(["demo", str(tmp_path), "--neighbours", "50", "--device", "cpu"]) == 0
    network = served[0][0]
    assert len(network.dataset.val) == 100
    assert len(network.training) == 50


def test_a_data_set_that_is_named_has_to_be_there(weights: Path, served: list, capsys) -> None:
    assert main(["demo", str(weights), "--data", "nowhere/at-all"]) != 0
    assert "no such data set" in capsys.readouterr().err
    assert served == []


def test_without_gradio_it_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["demo", str(weights)]) == 1
    assert capsys.readouterr().err == f"alexnet: {server.NEEDS_GRADIO}\n"
