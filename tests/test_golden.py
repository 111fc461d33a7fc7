"""The losses of twenty steps of every recipe are the stored ones: a refactoring that should change nothing does not.

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
STEPS = 20
TOLERANCE = 0.02  # another number of threads adds in another order, and twenty steps make that 0.005 of a loss
# The whole network amplifies it: another processor moved one of the first eight losses by 0.034, another number of
# threads one of twenty by 0.08. So its first ten are compared, and more loosely.
FULL_STEPS, FULL_TOLERANCE = 10, 0.05
WIDTHS = {"narrow": 1 / 16, "full": 1.0}


def losses_of(name: str, width_mult: float, folder: Path) -> list[float]:
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
    recipe = recipes.RECIPES[name](batch_size=8, seed=1, holdout=holdout, val_every=1, width_mult=width_mult)
    runtime = Runtime(max_steps=STEPS, precision="fp32", device="cpu", tracker="none", save_every=1e6, quiet=True)
    train.run(recipe, data=str(images), out=folder / "run", runtime=runtime)
    return [round(row["train_loss"], 5) for row in load_run(folder / "run").rows]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_twenty_losses_of_a_narrow_network_are_the_stored_ones(name: str, tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text())["narrow"][name]
    assert losses_of(name, WIDTHS["narrow"], tmp_path) == pytest.approx(stored, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_ten_losses_of_the_full_network_are_the_stored_ones(name: str, tmp_path: Path) -> None:
    found, stored = losses_of(name, WIDTHS["full"], tmp_path), json.loads(STORED.read_text())["full"][name]
    assert found[:FULL_STEPS] == pytest.approx(stored[:FULL_STEPS], abs=FULL_TOLERANCE)


def main() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for size, width_mult in WIDTHS.items():
        found[size] = {}
        for name in recipes.RECIPES:
            with tempfile.TemporaryDirectory() as folder:
                found[size][name] = losses_of(name, width_mult, Path(folder))
    text = json.dumps(found, indent=1).replace("\n   ", " ").replace("\n  ]", "]")
    STORED.write_text(text + "\n")


if __name__ == "__main__":
    main()
