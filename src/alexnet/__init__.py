"""AlexNet as of 2012: the network, its training on CIFAR-10, and tools to look inside.

>>> import torch
>>> from alexnet import AlexNet_2012
>>> AlexNet_2012(num_classes=10)(torch.randn(1, 3, 224, 224)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet import recipes, train
    from alexnet.checkpoint import load_model, load_run
    from alexnet.lrn import local_response_norm
    from alexnet.model import AlexNet_2012

__version__ = "0.2.0"
__all__ = ["AlexNet_2012", "__version__", "load_model", "load_run", "local_response_norm", "recipes", "train"]

_MODULES = {
    "AlexNet_2012": "alexnet.model",
    "load_model": "alexnet.checkpoint",
    "load_run": "alexnet.checkpoint",
    "local_response_norm": "alexnet.lrn",
}


def __getattr__(name: str) -> Any:
    """Import torch only when a name needs it, so that ``alexnet --help`` answers at once."""
    if name in ("recipes", "train"):
        return importlib.import_module(f"alexnet.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
