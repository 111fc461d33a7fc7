"""The losses of ten steps of every recipe are the stored ones: a refactoring that should change nothing does not.

Stored in golden_losses.json, float32 on a CPU, batches of 8. After an intended change, write them with

    python tests/test_golden.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import load_run, recipes, train
from alexnet.recipes import Runtime

STORED = Path(__file__).with_name("golden_losses.json")
STEPS = 10
TOLERANCE = 0.05  # another processor rounds differently, and ten steps may make that 0.03 of a loss
TOLERANCES = {"reference": 0.003}  # whose loss hardly moves at first
NAMES = [name for name in recipes.RECIPES if name != "imagenet"]  # paper's settings
WIDTHS = {"narrow": 1 / 16, "full": 1.0}


def losses_of(name, width_mult, folder):
    """The training losses of the first steps of a recipe, on generated images."""
    images = folder / "images"
    random = np.random.RandomState(0)  # whose numbers NumPy promises never to change
    for split, count in (("train", 100), ("val", 8)):
        for label, colour in enumerate(((90, 60, 40), (40, 70, 120))):
            (images / split / str(label)).mkdir(parents=True)
            for i in range(count):
                pixels = (random.randint(0, 120, (8, 8, 3)) + colour).repeat(4, 0).repeat(4, 1).astype(np.uint8)
                Image.fromarray(pixels).save(images / split / str(label) / f"{i}.png")
    holdout = 16 if recipes.RECIPES[name]().holdout else 0
    changes = {"batch_size": 8, "seed": 1, "holdout": holdout, "val_every": 1, "width_mult": width_mult}
    recipe = recipes.RECIPES[name](images=None, **changes)
    runtime = Runtime(max_steps=STEPS, precision="fp32", device="cpu", tracker="none", save_every=1e6, quiet=True)
    train.run(recipe, data=str(images), out=folder / "run", runtime=runtime)
    return [round(row["train_loss"], 5) for row in load_run(folder / "run").rows]


@pytest.mark.parametrize("size", ["narrow", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_ten_losses_are_the_stored_ones(name, size, tmp_path):
    stored = json.loads(STORED.read_text())[size][name]
    tolerance = TOLERANCES.get(name, TOLERANCE)
    assert losses_of(name, WIDTHS[size], tmp_path) == pytest.approx(stored, abs=tolerance)


def main():
    found = {}
    for size, width_mult in WIDTHS.items():
        found[size] = {}
        for name in NAMES:
            with tempfile.TemporaryDirectory() as folder:
                found[size][name] = losses_of(name, width_mult, Path(folder))
    text = json.dumps(found, indent=1).replace("\n   ", " ").replace("\n  ]", "]")
    STORED.write_text(text + "\n")


if __name__ == "__main__":
    main()
