"""The paper's claims as experiments: training runs, records, and verdicts by rules that are fixed before the runs.

>>> from alexnet.tools import reproduce
>>> result = reproduce.run_experiment(reproduce.find("figure-1"), data="digits", out="runs/figure-1", seeds=1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alexnet.tools.reproduce.experiments import (
    EXPERIMENTS,
    OVERFITTING,
    TEST_ERROR,
    Arm,
    Experiment,
    Measure,
    Small,
    Stage,
    epochs_until,
    find,
    format_list,
    list_experiments,
    training_loss,
)  # fmt: skip
from alexnet.tools.reproduce.verdicts import Comparison

if TYPE_CHECKING:
    from alexnet.tools.reproduce.record import draw, format_record, spread
    from alexnet.tools.reproduce.run import run_experiment

__all__ = [
    "EXPERIMENTS", "OVERFITTING", "TEST_ERROR", "Arm", "Comparison", "Experiment", "Measure", "Small", "Stage", "draw",
    "epochs_until", "find", "format_list", "format_record", "list_experiments", "run_experiment", "spread",
    "training_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import torch only to run an experiment, so that the list of them appears at once."""
    if name not in ("draw", "format_record", "run_experiment", "spread"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "run" if name == "run_experiment" else "record"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
