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

_MODULES = {"AlexNet_2012": "model", "load_model": "checkpoint", "load_run": "checkpoint", "local_response_norm": "lrn"}


def __getattr__(name: str) -> Any:
    """Import torch only when a name needs it, so that ``alexnet --help`` answers at once."""
    if name not in __all__:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    module = importlib.import_module(f"alexnet.{_MODULES.get(name, name)}")
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    return sorted(__all__)
