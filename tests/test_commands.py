"""Every `alexnet` command in the pages runs as written, page after page in one folder, on few images.

Training commands get flags that make them short. Commands that serve a page or run for hours are only parsed.
"""

import functools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import train
from alexnet.cli import main, parse
from alexnet.recipes import RECIPES, Runtime
from tiny_cifar10 import parquet

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for page in PAGES
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^(?:\.venv/bin/|torchrun .* -m )?(alexnet .*)$", block, re.MULTILINE)
]
PARSED_ONLY = re.compile(r"demo|reproduce \w|convert|.*--parallel towers|train --resume --out runs/(columns|towers)")
SHORT = ["--max-steps", "2", "--batch-size", "8", "--val-every", "2", "--width-mult", "0.0625", "--tracker", "none"]


def make_files(folder):
    """What the pages take for granted: the hub's copy of CIFAR-10, with few images, and photographs."""
    random = np.random.default_rng(0)
    photograph = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    own = [f"my-images/{split}/{name}/{i}.jpg" for split in ("train", "val") for name in "abcd" for i in range(16)]
    for name in ["photo.jpg", "another.png", "cat.jpg", "dog.png", *own]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.save(folder / name)
    (folder / "docs").symlink_to(ROOT / "docs")
    for split in ("train", "test"):
        path = folder / "data" / "cifar10" / "plain_text" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet(split))


def shortened(words):
    if words[0] == "doctor":
        return [*words, "--width-mult", "0.0625"]
    if words[0] != "train" or "--resume" in words:
        return words
    recipe = RECIPES[words[1]]()
    images = ["--images", "30"] if recipe.images or "--images" in words else []
    return [*words, *SHORT, *images, *(["--holdout", "10"] if recipe.holdout else [])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    assert main(shortened(["train", "quickstart"])) == 0  # as `make quickstart` does
    failed, count = [], 0
    for words in COMMANDS:
        parse(words)
        if PARSED_ONLY.match(shlex.join(words)):
            continue
        if "weights.safetensors" in words:
            assert main(["export", "runs/first", "--format", "safetensors", "--out", "weights.safetensors"]) == 0
        for name in re.findall(r"runs/(?:base|he)-s\d", shlex.join(words)):
            shutil.copytree("runs/first", name, dirs_exist_ok=True)
        count += 1
        if main(shortened(words)) != 0:
            failed.append(shlex.join(words))
    assert not failed
    assert count >= 20


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    short = Runtime(max_steps=1, tracker="none", quiet=True)
    monkeypatch.setattr(train, "run", functools.partial(train.run, runtime=short))
    for page in ("ecosystem.md", "inside.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert blocks
        exec(compile("\n".join(blocks), page, "exec"), {})
