"""torch.hub's entry point: ``torch.hub.load("OWNER/REPOSITORY", "alexnet_2012", num_classes=10)``."""

import pathlib
import sys

dependencies = ["torch", "torchvision", "numpy", "PIL", "huggingface_hub", "safetensors"]

if "alexnet" not in sys.modules:  # the source beside this file, whatever else is installed or lies around
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "src"))

from alexnet.model import AlexNet_2012 as _AlexNet  # noqa: E402  (torch.hub lists names without an underscore)


def alexnet_2012(
    num_classes: int = 10,
    variant: str = "classic",
    init: str | None = None,
    weights: str | None = None,
    widths: str = "full",
) -> _AlexNet:
    """AlexNet as of 2012, freshly initialised or with weights.

    Args:
        num_classes, variant, init, widths: as for ``alexnet.AlexNet_2012``.
        weights: a run folder, a checkpoint or a ``.safetensors`` of this project; it decides classes and variant, and
            the model comes in evaluation mode.
    """
    if weights is None:
        return _AlexNet(num_classes, variant, init, widths)
    from alexnet.weights.checkpoint import load_model

    return load_model(weights)
