"""The page as a Hugging Face Space: a folder that can be pushed there as it is and needs nothing of this machine.

This package travels in the folder, so that the Space goes on to work as the run did, whatever is changed later.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import alexnet
from alexnet.data.images import open_image
from alexnet.use.demo.network import Example, Network
from alexnet.weights.checkpoint import save_weights

__all__ = ["read_examples", "write_space"]

WEIGHTS, EXAMPLES = "model.safetensors", "examples"
# What the page imports, of all that the package needs; a test holds it to that.
PACKAGES = (
    "huggingface-hub", "jinja2", "numpy", "pillow", "pyarrow", "safetensors", "scikit-learn", "torch", "torchvision",
)  # fmt: skip

APP = '''"""AlexNet (2012) on a page of its own. Written by `alexnet demo RUN --space DIR`."""

from pathlib import Path

from alexnet import load_model
from alexnet.data import datasets
from alexnet.use.demo import Network, serve
from alexnet.use.demo.space import read_examples

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    dataset = {dataset}
    network = Network(load_model(HERE / "{weights}"), dataset, read_examples(HERE / "{examples}"))
    serve(network, host="0.0.0.0", port=7860).wait()
'''

README = """---
title: AlexNet 2012
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: mit
---

# AlexNet (2012), trained on {data}

Show it an image: its five most likely classes, where the image speaks for each, what its layers answer.
It knows {count} classes and nothing else: {classes}.

{neighbours}
"""


def write_space(network: Network, folder: Path) -> list[str]:
    """Write ``app.py``, ``requirements.txt``, ``README.md``, the weights, some examples and this package.

    Of the data set only the examples are copied. Where it is ``digits``, which comes with scikit-learn, the Space has
    all of it and shows the nearest training images too.

    Returns:
        The names of what lies in the folder.

    Raises:
        ValueError: ``folder`` is there already and not empty.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--space {folder}: already exists; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    card, dataset = network.card, network.dataset
    digits = dataset is not None and dataset.spec == "digits"
    save_weights(folder / WEIGHTS, network.model.state_dict(), card)
    _write_examples(network.examples(), folder / EXAMPLES)
    package = Path(alexnet.__file__).parent
    shutil.copytree(package, folder / "alexnet", ignore=shutil.ignore_patterns("__pycache__"))
    app = APP.format(dataset='datasets.load("digits")' if digits else "None", weights=WEIGHTS, examples=EXAMPLES)
    shown, more = ", ".join(card.classes[:40]), len(card.classes) - 40
    files = {
        "app.py": app if digits else app.replace("from alexnet.data import datasets\n", ""),
        "requirements.txt": "".join(f"{name}=={_version(name)}\n" for name in PACKAGES),
        "README.md": README.format(
            gradio=_version("gradio"),
            python=".".join(map(str, sys.version_info[:2])),
            data=_line(card.data),
            count=card.num_classes,
            classes=_line(shown) + (f" and {more} more" if more > 0 else ""),
            neighbours="" if digits else "The nearest training images are not shown: the data set is not part of it.",
        ).rstrip()
        + "\n",
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from its source, not installed
        if licence := importlib.metadata.distribution("alexnet-2012").read_text("licenses/LICENSE"):
            files["LICENSE"] = licence
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace")
    return sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())


def _write_examples(examples: Sequence[Example], folder: Path) -> None:
    folder.mkdir()
    labels = []
    for number, example in enumerate(examples):
        example.picture.save(folder / f"{number:02}.png")
        labels.append(example.label)
    (folder / "labels.json").write_text(json.dumps(labels) + "\n")


def read_examples(folder: Path) -> list[Example]:
    """The examples that ``write_space`` left in a folder.

    Raises:
        ImageError: one that is missing or damaged.
    """
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return [Example(open_image(folder / f"{number:02}.png"), label) for number, label in enumerate(labels)]


def _version(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]  # a local build's mark, such as +cu132, is no version


def _line(text: str) -> str:
    """Somebody's text inside Markdown, where it shall mean nothing."""
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]<>()#+-!|&" else mark for mark in " ".join(text.split()))
