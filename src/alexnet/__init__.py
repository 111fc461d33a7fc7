"""AlexNet as of 2012: the network, its training on CIFAR-10, its fidelity and its speed.

>>> import torch
>>> from alexnet import AlexNet_2012
>>> AlexNet_2012(num_classes=10)(torch.randn(1, 3, 224, 224)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.lrn import local_response_norm
    from alexnet.model import AlexNet_2012
    from alexnet.weights.checkpoint import load_model

__version__ = "0.1.0"
__all__ = ["AlexNet_2012", "__version__", "load_model", "local_response_norm"]

_HOMES = {
    "AlexNet_2012": "alexnet.model",
    "load_model": "alexnet.weights.checkpoint",
    "local_response_norm": "alexnet.lrn",
}


def __getattr__(name: str) -> Any:
    """Import torch only when a name that needs it is asked for, so that ``alexnet --help`` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
