"""AlexNet with few maps, for tests of what surrounds the network: the same layers, names and shapes of input.

python tests/tiny.py train quickstart --out runs/x      # the command `alexnet`, with the small network

``WHOLE_NETWORK=1`` leaves the network as it is; ``NO_DROPOUT=1`` leaves dropout out; ``FAIL_AT_STEP=N`` makes that step
fail as a bug would; ``FILE_SIZE_LIMIT=N`` makes writes beyond N bytes fail, as on a full disk.
"""

import dataclasses
import os
import resource
import sys
from collections.abc import Sequence

from torch import nn

from alexnet import train
from alexnet.cli import main
from alexnet.model import VARIANTS, Variant

WIDTHS = (8, 16, 12, 12, 8, 32, 32)


def tiny_variants() -> dict[str, Variant]:
    """Every variant with ``WIDTHS``, by name."""
    return {name: dataclasses.replace(variant, widths=WIDTHS) for name, variant in VARIANTS.items()}


def fail_at(step: int) -> None:
    """Make training raise an error of a kind that nothing expects."""
    real = train.train_step

    def train_step(s, *batch):  # type: ignore[no-untyped-def]
        if s.progress.step + 1 == step:
            raise RuntimeError("a bug")
        return real(s, *batch)

    train.train_step = train_step


def command(arguments: Sequence[str] | None = None) -> int:
    """The command `alexnet` with the small network, for the rest of this process. Gives its exit code."""
    if not os.environ.get("WHOLE_NETWORK"):
        VARIANTS.update(tiny_variants())  # type: ignore[attr-defined]
    if os.environ.get("NO_DROPOUT"):
        nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]
    if os.environ.get("FAIL_AT_STEP"):
        fail_at(int(os.environ["FAIL_AT_STEP"]))
    if limit := int(os.environ.get("FILE_SIZE_LIMIT", 0)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(arguments)


if __name__ == "__main__":
    sys.exit(command())
