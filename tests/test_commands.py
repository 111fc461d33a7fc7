"""Every `alexnet` command of the pages runs as written, page after page in one folder, with few maps and few images.

Two things are added: runs that would take hours end after two steps, and keep fewer images apart. What serves until it
is stopped, or puts a claim of the paper to the test, has tests of its own (tests/use/demo, tests/reproduce).
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alexnet import recipes
from alexnet.cli import main
from caffe_files import caffe_layers, caffemodel, fresh
from test_pages import commands

LEFT_OUT = re.compile(r"alexnet (demo runs/\w+$|reproduce \w)|--parallel")


def make_cifar10(folder: Path) -> None:
    """The hub's copy of CIFAR-10, with 60 and 20 images."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, count in (("train", 60), ("test", 20)):
        images = []
        for row in range(count):
            image, file = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)), folder / "image.png"
            image.save(file)
            images.append({"bytes": file.read_bytes(), "path": f"{row}.png"})
            file.unlink()
        table = pa.table({"img": images, "label": [row % 10 for row in range(count)]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def bring_files(folder: Path) -> None:
    """What the pages take for granted: photographs, a folder of them, the weights of others."""
    make_cifar10(folder / "data" / "cifar10" / "plain_text")
    photograph = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    own = [f"my-images/{split}/{name}/{i}.jpg" for split in ("train", "val") for name in "abc" for i in range(4)]
    for name in ["photo.jpg", "another.png", "cat.jpg", "dog.png", *own]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.save(folder / name)
    (folder / "bvlc_alexnet.caffemodel").write_bytes(caffemodel(caffe_layers(fresh("caffe", 1000))))
    torch.save(fresh("paper", 10).state_dict(), folder / "theirs.pth")


def shortened(words: list[str]) -> list[str]:
    """A run of two steps, where one begins."""
    if words[1] != "train" or "--resume" in words:
        return words
    recipe = recipes.RECIPES[words[2]]()
    more = ["--tracker", "none", "--max-steps", "2", "--batch-size", "8", "--val-every", "2"]
    return [*words, *more, *(["--holdout", "10"] if recipe.holdout else [])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_commands_run(tiny_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bring_files(tmp_path)
    assert main(shortened(["alexnet", "train", "quickstart"])[1:]) == 0  # as `make quickstart` does
    run, failed = 0, []
    for command in commands():
        words = shlex.split(command, comments=True)
        if LEFT_OUT.search(shlex.join(words)):
            continue
        if "weights.safetensors" in words:
            assert main(["export", "runs/first", "--format", "safetensors", "--out", "weights.safetensors"]) == 0
        for name in re.findall(r"runs/(?:base|he)-s\d", command):
            shutil.copytree("runs/first", name, dirs_exist_ok=True)
        if main(shortened(words)[1:]) != 0:
            failed.append(command)
        run += 1
    assert not failed
    assert run >= 25
