"""Files of a run: whole or absent, safe, and clear about what is wrong with them."""

import dataclasses
import json
import os
import pickle
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from alexnet import AlexNet_2012, checkpoint, load_model, load_run
from alexnet.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from alexnet.data.normalization import Normalization
from alexnet.model import ModelInfo
from alexnet.recipes import modern, quickstart, recipe_from_config
from runs import run_small

INFO = ModelInfo(
    "classic", ("cat", "dog", "été"), Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "pets", width_mult=1 / 16
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AlexNet_2012(3, width_mult=1 / 16)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "last.ckpt", {"model": model.state_dict(), "step": 3}, INFO)
    save_weights(folder / "best.safetensors", {k: v + 1 for k, v in model.state_dict().items()}, INFO)
    return folder


# --- weights and checkpoints


def test_files_are_read_back(model, folder):
    state = load_checkpoint(folder / "last.ckpt")
    assert (state["info"], state["step"]) == (INFO, 3)
    weights, info = load_weights(folder / "best.safetensors")
    assert info == INFO
    assert all(torch.equal(weights[name], value + 1) for name, value in model.state_dict().items())
    with safe_open(folder / "best.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"  # which other libraries ask for


def test_load_model_takes_a_folder_a_checkpoint_and_weights(model, folder, tmp_path):
    image = torch.randn(1, 3, 224, 224)
    expected = model.eval()(image)
    for path in (folder, folder / "last.ckpt", str(folder)):
        loaded = load_model(path)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        assert loaded.info == INFO
        assert torch.equal(loaded(image), expected)  # of a folder, the last weights
    assert not torch.equal(load_model(folder / "best.safetensors")(image), expected)
    half = {name: value.half() for name, value in model.state_dict().items()}
    save_weights(tmp_path / "half.safetensors", half, INFO)
    assert {p.dtype for p in load_model(tmp_path / "half.safetensors").parameters()} == {torch.float32}


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, (f"__import__('pathlib').Path({str(tmp_path / 'was run')!r}).touch()",)

    torch.save({"format": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.999])
@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
def test_a_truncated_file_is_named_in_one_line(folder, tmp_path, name, cut):
    whole = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError, match=name) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert "mmap" not in str(error.value)  # of a file that is no archive


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, "attributes"])
def test_a_flipped_bit_is_noticed(folder, tmp_path, place):
    """torch writes checksums of the file's parts, and reads a changed weight all the same."""
    data = bytearray((folder / "last.ckpt").read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else data.rindex(b"PK\1\2") + 38] ^= 16
    (tmp_path / "last.ckpt").write_bytes(data)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        load_checkpoint(tmp_path / "last.ckpt")


NO_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 144.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),  # on Windows
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 1 GB on private pool."),
    RuntimeError("unable to mmap 4096 bytes from file <last.ckpt>: Cannot allocate memory (12)"),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_out_of_memory_is_not_a_damaged_file(folder, monkeypatch, error):
    monkeypatch.setattr(torch, "load", mock.Mock(side_effect=error))
    with pytest.raises(type(error)) as raised:
        load_model(folder / "last.ckpt")
    assert raised.value is error


def test_files_of_other_programs_are_named(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\n")
    wrong = ModelInfo("paper", INFO.classes, INFO.normalization, INFO.data, width_mult=1 / 16)
    save_weights(tmp_path / "wrong.safetensors", model.state_dict(), wrong)
    words = {"foreign.pth": "convert", "foreign.safetensors": "convert", "lfs.safetensors": "git lfs"}
    words["wrong.safetensors"] = "paper"
    for name, word in words.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}.*{word}"):
            load_model(tmp_path / name)
    for path in (tmp_path, tmp_path / "nothing.ckpt"):
        with pytest.raises(FileNotFoundError):
            load_model(path)


# --- files of 0.1.0

FIRST = {
    "format": "alexnet-2012/1",
    "card": '{"variant": "classic", "classes": ["cat", "dog", "\\u00e9t\\u00e9"], "normalization": '
    '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, "data": "pets", "widths": "quarter"}',
}
OLD_RECIPE = {
    "name": "modern", "data": "digits", "data_dir": "data", "images": None, "holdout": 5000, "input_scale": "imagenet",
    "crop": "random", "flip": True, "color_noise": "none", "color_noise_until": 1.0, "variant": "classic",
    "widths": "quarter", "init": "he", "epochs": 13, "max_steps": None, "batch_size": 64, "lr": 0.08, "bias_lr": 1.0,
    "schedule": "cosine", "warmup": 1.0, "patience": 5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005,
    "decay_biases": True, "clip_norm": 1.0, "label_smoothing": 0.1, "ema": 0.999, "val_every": 100,
    "test_views": "flip", "save_every": 5.0, "tracker": "trackio", "seed": 0, "device": "auto", "precision": "auto",
    "loader": "auto", "parallel": "columns", "compile": None,
}  # fmt: skip


def test_checkpoints_of_0_1_0_are_read(tmp_path):
    quarter = AlexNet_2012(3, width_mult=0.25)
    torch.save({**FIRST, "model": quarter.state_dict()}, tmp_path / "last.ckpt")
    save_file(quarter.state_dict(), tmp_path / "old.safetensors", FIRST)
    for path in (tmp_path, tmp_path / "old.safetensors"):
        loaded = load_model(path)
        assert loaded.info is not None
        assert (loaded.info.classes, loaded.info.width_mult) == (INFO.classes, 0.25)
        assert torch.equal(loaded.classifier.fc8.weight, quarter.classifier.fc8.weight)


def test_configs_of_0_1_0_are_read(tmp_path):
    config = {"recipe": OLD_RECIPE, "data": {"train": 1000}, "classes": ["a", "b"]}
    checkpoint.write_config(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 16, "epoch": 1.0, "train_loss": 1.0, "val_acc": 50.0}\n')
    run = load_run(tmp_path)
    assert run.recipe == modern(width_mult=0.25, muon_lr=0.0, dropout_ramp=False)
    assert (run.steps_per_epoch, run.total_steps, run.step, run.last_step) == (16, 208, 16, 208)
    assert run.final["val_acc"] == 50
    noisy = recipe_from_config(OLD_RECIPE | {"color_noise": "eigenvalue"})
    assert noisy.augment == ("random_crop", "flip", "pca_color")
    noisy = recipe_from_config(OLD_RECIPE | {"crop": "random-resized", "flip": False, "color_noise": "std"})
    assert noisy.augment == ("random_resized_crop", "pca_color_std")
    with pytest.raises(ValueError, match="moon"):
        recipe_from_config(OLD_RECIPE | {"moon": "full"})


@pytest.mark.parametrize(
    "change", [{"card": None}, {"card": "{}"}, {"card": 3}, {"model": None}, {"model": {1: 2}}, {"model": 5}], ids=str
)
def test_a_malformed_checkpoint_is_named_in_one_line(tmp_path, change):
    state = {**FIRST, "model": AlexNet_2012(3, width_mult=0.25).state_dict(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt") as error:
        load_model(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_cannot_be_resumed_from_says_so(images, tmp_path):
    out = tmp_path / "run"
    run_small(images, out, max_steps=1)
    whole = torch.load(out / "last.ckpt", weights_only=True)
    narrow = {name: value[:1] for name, value in whole["model"].items()}
    for change in ({"progress": whole["progress"] | {"moon": 1}}, {"progress": 3}, {"running": {}}, {"model": narrow},
                   {"optimizer": 5}):  # fmt: skip
        torch.save(whole | change, out / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt.*cannot be resumed from") as error:
            run_small(images, out, max_steps=2, resume=True)
        assert "\n" not in str(error.value)


# --- writing and the run folder


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file):
        file.write_text("ne")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_synced_before_its_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor):
        calls.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renamed(self, target):
        calls.append(f"rename {self.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    checkpoint.write_atomically(tmp_path / "file", lambda file: file.write_text("new"))
    assert calls == ["sync file.tmp", "rename file.tmp", f"sync {tmp_path.name}"]


def test_a_folder_with_a_lock_alone_is_free(tmp_path):
    (tmp_path / ".lock").touch()
    checkpoint.check_run_dir(tmp_path, quickstart(), resume=False)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="holds no run"):
        checkpoint.check_run_dir(tmp_path, quickstart(), resume=False)


def test_the_best_validation_may_be_at_an_epochs_end(tmp_path):
    rows = [
        {"step": 20, "epoch": 1.0, "train_loss": 1.0, "val_acc": 66.0},
        {"step": 24, "epoch": 1.2, "epoch_val_acc": 83.0},
        {"step": 40, "epoch": 2.0, "train_loss": 1.0, "val_acc": 83.0},
    ]
    checkpoint.write_config(tmp_path, {"recipe": dataclasses.asdict(quickstart()), "data": {"train": 20}})
    assert load_run(tmp_path).best == {}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_run(tmp_path).best == {"val_acc": 83.0, "step": 24}


def test_a_config_is_read_back_whatever_its_names(tmp_path):
    config = {"classes": ["caf\udce9", "été", "猫"]}  # the first is a file name that is not valid text
    checkpoint.write_config(tmp_path, config)
    assert checkpoint.read_config(tmp_path) == config


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "3", "[" * 100_000, '{"recipe": 3}', '{"recipe": {"lr": "x"}}', '{"recipe": {"warp": 9}}',
        *(f'{{"recipe": {{}}, "data": {{"train": 20}}, {part}}}' for part in (
            '"runtime": 5', '"parts": 5', '"parts": [1]', '"parts": [{"versions": 3}]'
        )),
    ],
)  # fmt: skip
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_run(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_run(tmp_path / "nothing")
