"""torch.hub's entry point: ``torch.hub.load("OWNER/REPOSITORY", "alexnet_2012", num_classes=10)``."""

import pathlib
import sys

dependencies = ["torch", "torchvision", "numpy", "PIL", "huggingface_hub", "safetensors"]

if "alexnet" not in sys.modules:  # the source beside this file, whatever else is installed
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "src"))

from alexnet.model import AlexNet_2012 as _AlexNet  # noqa: E402  (torch.hub lists names without an underscore)


def alexnet_2012(
    num_classes: int = 10,
    variant: str = "classic",
    init: str | None = None,
    weights: str | None = None,
    width_mult: float = 1.0,
    dropout: float | None = None,
) -> _AlexNet:
    """AlexNet as of 2012, freshly initialised or with trained weights.

    Args:
        num_classes, variant, init, width_mult, dropout: as for ``alexnet.AlexNet_2012``.
        weights: what ``alexnet.load_model`` takes, for example ``cifar10-small``. The other arguments are then ignored,
            and the network is in evaluation mode, without gradients.
    """
    if weights is None:
        return _AlexNet(num_classes, variant, init, width_mult, dropout)
    from alexnet.checkpoint import load_model

    return load_model(weights)
