"""The losses of twenty steps of every recipe are the kept ones: a change that should change nothing changes nothing.

Kept in golden_losses.json, float32 on a CPU, batches of 8. Where a change is meant to move them, write them anew:

    python tests/test_golden.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import recipes, train
from alexnet.model import VARIANTS
from alexnet.run.metrics import Running
from tiny import tiny_variants

KEPT = Path(__file__).with_name("golden_losses.json")
STEPS = 20
TOLERANCE = 0.02  # another number of threads adds in another order, and twenty steps make that 0.005 of a loss
# The whole network makes more of it: another processor moved one of the first eight losses by 0.034, another number of
# threads one of twenty by 0.08. So its first ten are held, and more loosely.
STEPS_OF_WHOLE, TOLERANCE_OF_WHOLE = 10, 0.05


def losses_of(name: str, folder: Path) -> list[float]:
    """The training losses of the first steps of a recipe, on images made here."""
    images = folder / "images"
    random = np.random.RandomState(0)  # whose numbers NumPy promises never to change
    for split, count in (("train", 100), ("val", 8)):
        for label, colour in enumerate(((90, 60, 40), (40, 70, 120))):
            (images / split / str(label)).mkdir(parents=True)
            for i in range(count):
                pixels = (random.randint(0, 120, (8, 8, 3)) + colour).repeat(4, 0).repeat(4, 1).astype(np.uint8)
                Image.fromarray(pixels).save(images / split / str(label) / f"{i}.png")
    base = recipes.RECIPES[name]()
    recipe = recipes.RECIPES[name](
        data=str(images), batch_size=8, seed=1, max_steps=STEPS, holdout=16 if base.holdout else 0,
        precision="fp32", device="cpu", tracker="none", save_every=1e6, val_every=100,
    )  # fmt: skip
    losses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        add = Running.add
        patch.setattr(Running, "add", lambda self, loss, *rest: (losses.append(loss.item()), add(self, loss, *rest))[1])
        train.run(recipe, out=folder / "run", quiet=True)
    return [round(loss, 5) for loss in losses]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_twenty_losses_of_a_small_network_are_the_kept_ones(name: str, tiny_network: None, tmp_path: Path) -> None:
    assert losses_of(name, tmp_path) == pytest.approx(json.loads(KEPT.read_text())["small"][name], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_ten_losses_of_the_network_are_the_kept_ones(name: str, tmp_path: Path) -> None:
    found, kept = losses_of(name, tmp_path), json.loads(KEPT.read_text())["whole"][name]
    assert found[:STEPS_OF_WHOLE] == pytest.approx(kept[:STEPS_OF_WHOLE], abs=TOLERANCE_OF_WHOLE)


def main() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for size, variants in (("whole", VARIANTS), ("small", tiny_variants())):
        VARIANTS.update(variants)  # type: ignore[attr-defined]
        found[size] = {}
        for name in recipes.RECIPES:
            with tempfile.TemporaryDirectory() as folder:
                found[size][name] = losses_of(name, Path(folder))
    text = json.dumps(found, indent=1).replace("\n   ", " ").replace("\n  ]", "]")
    KEPT.write_text(text + "\n")


if __name__ == "__main__":
    main()
