"""Files that hold a model: whole or absent, safe, and clear about what is wrong with them."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alexnet import AlexNet_2012, load_model
from alexnet.data.normalization import Normalization
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    write_atomically,
)

CARD = ModelCard("classic", ("cat", "dog", "été"), Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "pets")


@pytest.fixture(scope="module")
def model() -> AlexNet_2012:
    torch.manual_seed(0)
    return AlexNet_2012(3)


@pytest.fixture(scope="module")
def folder(model: AlexNet_2012, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "last.ckpt", {"model": model.state_dict(), "step": 3}, CARD)
    save_weights(folder / "best.safetensors", {k: v + 1 for k, v in model.state_dict().items()}, CARD)
    return folder


def test_round_trips(model: AlexNet_2012, folder: Path) -> None:
    state = load_checkpoint(folder / "last.ckpt")
    assert state["card"] == CARD
    assert state["step"] == 3
    weights, card = load_weights(folder / "best.safetensors")
    assert card == CARD
    assert all(torch.equal(weights[name], value + 1) for name, value in model.state_dict().items())


def test_load_model_takes_a_folder_a_checkpoint_and_weights(model: AlexNet_2012, folder: Path) -> None:
    image = torch.randn(1, 3, 224, 224)
    expected = model.eval()(image)
    for path in (folder, folder / "last.ckpt", str(folder)):
        loaded = load_model(path)
        assert not loaded.training
        assert loaded.card == CARD
        assert torch.equal(loaded(image), expected)  # a folder stands for its last weights
    assert not torch.equal(load_model(folder / "best.safetensors")(image), expected)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('/tmp/alexnet-was-run').touch()",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"format": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="refused: loading it would run code"):
        load_model(tmp_path / "evil.ckpt")
    for load in (load_model, load_checkpoint):
        with pytest.raises(ValueError, match="not a checkpoint"):
            load(tmp_path / "plain.ckpt")
    assert not Path("/tmp/alexnet-was-run").exists()


@pytest.mark.parametrize("cut", [0, 10, 1000, 0.5, 0.999])
@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
def test_a_truncated_file_gets_one_clear_line(folder: Path, tmp_path: Path, name: str, cut: float) -> None:
    whole = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError, match=r"cut short or not|refused") as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_foreign_files_are_named(model: AlexNet_2012, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="not a checkpoint of this project; `alexnet convert`"):
        load_model(tmp_path / "foreign.pth")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="says nothing of its network; `alexnet convert`"):
        load_model(tmp_path / "foreign.safetensors")
    wrong = ModelCard("paper", CARD.classes, CARD.normalization, CARD.data)
    save_weights(tmp_path / "wrong.safetensors", model.state_dict(), wrong)
    with pytest.raises(ValueError, match="do not fit variant 'paper'"):
        load_model(tmp_path / "wrong.safetensors")
    with pytest.raises(FileNotFoundError, match=r"neither last\.ckpt nor best\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or run folder"):
        load_model(tmp_path / "nothing.ckpt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(file: Path) -> None:
        file.write_text("ne")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_dev_full_is_an_oserror() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises((OSError, RuntimeError)):
        torch.save({"x": torch.zeros(100000)}, "/dev/full")
