"""Files that hold a model: whole or absent, safe, and clear about what is wrong with them."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alexnet import AlexNet_2012, load_model, recipes, train
from alexnet.data.normalization import Normalization
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    write_atomically,
)
from small_run import SMALL, make_images

CARD = ModelCard("classic", ("cat", "dog", "été"), Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "pets")


@pytest.fixture(scope="module")
def model(tiny_network: None) -> AlexNet_2012:
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
        with pytest.raises(ValueError, match="not a file of weights"):
            load(tmp_path / "plain.ckpt")
    assert not Path("/tmp/alexnet-was-run").exists()


@pytest.mark.parametrize("cut", [0, 10, 1000, 0.5, 0.999])
@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
def test_a_truncated_file_gets_one_clear_line(folder: Path, tmp_path: Path, name: str, cut: float) -> None:
    whole = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError, match=r"cut short|refused") as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, "attributes"])
def test_a_bit_that_flipped_is_seen(folder: Path, tmp_path: Path, place: float | str) -> None:
    """torch writes the sums of the file's parts, and reads a changed weight all the same."""
    data = bytearray((folder / "last.ckpt").read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else data.rindex(b"PK\1\2") + 38] ^= 16
    (tmp_path / "last.ckpt").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"last\.ckpt: cut short, damaged or not a file of weights \(.* is not what was written\)"
    ):
        load_checkpoint(tmp_path / "last.ckpt")


NO_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("unable to mmap 4096 bytes from file <last.ckpt>: Cannot allocate memory (12)"),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_where_memory_runs_out_the_file_is_not_to_blame(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)) as raised:
        load_model(folder / "last.ckpt")
    assert raised.value is error


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
    with pytest.raises(FileNotFoundError, match=r"neither last\.ckpt, best\.safetensors nor model\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or run folder"):
        load_model(tmp_path / "nothing.ckpt")


# --- what save_pretrained wrote ---------------------------------------------------------------------------------------


def same(one: AlexNet_2012, other: AlexNet_2012) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def saved(tiny_network: None, tmp_path: Path) -> Path:
    """A folder as ``save_pretrained`` writes it, with a card."""
    small = AlexNet_2012(3)
    small.card = CARD
    small.save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def test_load_model_takes_what_save_pretrained_wrote(saved: Path, tmp_path: Path) -> None:
    for path in (saved, saved / "model.safetensors"):
        loaded = load_model(path)
        assert loaded.card == CARD
        assert not loaded.training
        assert same(loaded, AlexNet_2012.from_pretrained(saved))
    loaded.save_pretrained(tmp_path / "again")  # and what was loaded can be saved again
    assert load_model(tmp_path / "again").card == CARD


def test_a_class_may_be_named_in_bytes_that_are_no_text(saved: Path, tmp_path: Path) -> None:
    model = load_model(saved)
    model.card = dataclasses.replace(CARD, classes=("caf\udce9", "thé", "eau"))
    model.save_pretrained(tmp_path / "odd")
    assert AlexNet_2012.from_pretrained(tmp_path / "odd").card == model.card


def test_weights_of_half_precision_are_loaded_as_float32(saved: Path, tmp_path: Path) -> None:
    load_model(saved).half().save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def test_a_saved_folder_without_its_card_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())

    def refused(change: dict[str, object] | str, message: str) -> None:
        (saved / "config.json").write_text(change if isinstance(change, str) else json.dumps(change))
        with pytest.raises(ValueError, match=message) as error:
            load_model(saved)
        assert str(saved) in str(error.value)
        assert "\n" not in str(error.value)

    refused(config | {"card": None}, "saved without a card, so its input is not known")
    refused({"architectures": ["AlexNet"]}, "says nothing of its network; `alexnet convert`")
    refused("{", "not valid JSON")
    refused(config | {"card": {"variant": "classic"}}, "malformed card: the card lacks classes, normalization, data")
    refused(config | {"num_classes": "3"}, "num_classes, a number, and variant, a name, are wanted")
    refused(config | {"num_classes": 4}, "the card's 3 classes and variant 'classic' are not the network's 4 and ")
    for wrong in (config | {"card": 3}, config | {"num_classes": None}):
        (saved / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"malformed card|are wanted"):
            AlexNet_2012.from_pretrained(saved)


def test_a_failed_save_leaves_no_half_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(saved)

    def half(file: Path, text: str, **_: object) -> None:
        file.write_bytes(text[:20].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        loaded.save_pretrained(saved)
    assert {file.name for file in saved.iterdir()} == {"README.md", "model.safetensors"}  # the hub's mixin starts anew


def test_weights_that_are_missing_are_drawn_where_asked(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    whole = AlexNet_2012.from_weights(weights, CARD)
    del weights["classifier.fc8.bias"]
    with pytest.raises(ValueError, match="the weights do not fit variant 'classic' with 3 classes"):
        AlexNet_2012.from_weights(weights, CARD)
    partly = AlexNet_2012.from_weights(weights, CARD, strict=False)
    assert partly.classifier.fc8.bias.tolist() == [0, 0, 0]
    assert torch.equal(partly.features.conv1.weight, whole.features.conv1.weight)


# --- checkpoints of other versions ------------------------------------------------------------------------------------

FIRST = {  # the card and the progress of 0.1.0's first checkpoints
    "format": "alexnet-2012/1",
    "card": '{"variant": "classic", "classes": ["cat", "dog", "\\u00e9t\\u00e9"], "normalization": '
    '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, "data": "pets"}',
    "progress": {"step": 9, "logged": 9, "best_acc": 50.0, "best_step": 9, "warned": False, "seconds": 0.0,
                 "waited": 0.0, "row": {}},
}  # fmt: skip


def test_checkpoints_of_the_first_version_are_read(tiny_network: None, tmp_path: Path) -> None:
    small = AlexNet_2012(3)
    torch.save({**FIRST, "model": small.state_dict()}, tmp_path / "last.ckpt")
    loaded = load_model(tmp_path)
    assert loaded.card == CARD
    assert same(loaded, small)
    metadata = {"format": FIRST["format"], "card": FIRST["card"]}
    save_file(small.state_dict(), tmp_path / "old.safetensors", metadata)  # type: ignore[arg-type]
    assert load_model(tmp_path / "old.safetensors").card == CARD


CHANGES = ({"card": None}, {"card": "{}"}, {"card": 3}, {"model": None}, {"model": {}}, {"model": {"x": "y"}},
           {"model": {1: 2}}, {"model": 5})  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_malformed_checkpoint_is_one_clear_line(
    tiny_network: None, tmp_path: Path, change: dict[str, object]
) -> None:
    state = {**FIRST, "model": AlexNet_2012(3).state_dict(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt: (malformed card|the weights do not fit)") as error:
        load_model(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value)


def test_a_run_of_another_version_cannot_go_on_and_says_so(
    tiny_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.quickstart(**SMALL, max_steps=1, data=str(make_images(tmp_path / "images")), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.report.plots.curves", lambda folder: None)  # half of its time
        train.run(recipe, out=tmp_path / "run", quiet=True)
    whole = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    newer = whole["progress"] | {"moon": "full"}
    fewer = {name: value for name, value in whole.items() if name != "running"}
    narrow = {name: value[:1] for name, value in whole["model"].items()}
    for state, message in (
        (whole | {"progress": newer}, "another version of this project: its progress has moon"),
        (whole | {"progress": 3}, "its progress has no step"),
        (fewer, "lacks running"),
        (whole | {"model": narrow}, "of use for its weights alone"),
        (whole | {"optimizer": 5}, "of use for its weights alone"),
    ):
        torch.save(state, tmp_path / "run" / "last.ckpt")
        with pytest.raises(ValueError, match=message) as error:
            train.run(dataclasses.replace(recipe, max_steps=2), out=tmp_path / "run", resume=True, quiet=True)
        assert "\n" not in str(error.value)
    torch.save(whole, tmp_path / "run" / "last.ckpt")

    def load(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 144.00 MiB")

    monkeypatch.setattr("accelerate.optimizer.AcceleratedOptimizer.load_state_dict", load)
    with pytest.raises(torch.OutOfMemoryError):  # the file is good
        train.run(dataclasses.replace(recipe, max_steps=2), out=tmp_path / "run", resume=True, quiet=True)


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
