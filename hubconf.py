"""torch.hub's entry point: ``torch.hub.load("OWNER/REPOSITORY", "alexnet_2012", num_classes=10)``."""

import importlib.util
import pathlib
import sys

dependencies = ["torch", "torchvision", "numpy", "PIL", "huggingface_hub", "safetensors"]

if importlib.util.find_spec("alexnet") is None:  # not installed: use the source beside this file
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "src"))

from alexnet.model import AlexNet_2012 as _AlexNet  # noqa: E402  (torch.hub lists names without an underscore)


def alexnet_2012(
    num_classes: int = 10, variant: str = "classic", init: str | None = None, weights: str | None = None
) -> _AlexNet:
    """AlexNet as of 2012, freshly initialised or with weights.

    Args:
        num_classes, variant, init: as for ``alexnet.AlexNet_2012``.
        weights: a run folder, a checkpoint or a ``.safetensors`` of this project; it decides classes and variant, and
            the model comes in evaluation mode.
    """
    if weights is None:
        return _AlexNet(num_classes, variant, init)
    from alexnet.weights.checkpoint import load_model

    return load_model(weights)
