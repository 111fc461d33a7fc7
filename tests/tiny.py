"""AlexNet with few maps, for tests of what surrounds the network: the same layers, names and shapes of input.

python tests/tiny.py train quickstart --out runs/x      # the command `alexnet`, with the small network
"""

import dataclasses
import sys

from alexnet.cli import main
from alexnet.model import VARIANTS, Variant

WIDTHS = (8, 16, 12, 12, 8, 32, 32)


def tiny_variants() -> dict[str, Variant]:
    """Every variant with ``WIDTHS``, by name."""
    return {name: dataclasses.replace(variant, widths=WIDTHS) for name, variant in VARIANTS.items()}


if __name__ == "__main__":
    VARIANTS.update(tiny_variants())  # type: ignore[attr-defined]
    sys.exit(main())
