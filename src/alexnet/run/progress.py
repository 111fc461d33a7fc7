"""Where a run is: with the weights, optimiser, running sums and random states, all that resuming needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Progress"]


@dataclass
class Progress:
    """Where a run is. With the weights, optimiser, running sums and random states, all that resuming needs."""

    step: int = 0
    logged: int = 0
    """The last step with a logged row."""
    best_acc: float = -1.0
    best_step: int = 0
    warned: bool = False
    seconds: float = 0.0
    """Spent on steps since the last full row; ``waited``: for data, within them."""
    waited: float = 0.0
    validating: float = 0.0
    saving: float = 0.0
    """Seconds spent on these two since the last full row."""
    row: dict[str, float] = field(default_factory=dict)
    """The last full row."""
    plateau_acc: float = -1.0
    """The best validation at an epoch's end, and the epochs since then."""
    stale: int = 0
    drops: int = 0
    """How often the schedule ``plateau`` has divided the learning rate."""

    @classmethod
    def of(cls, saved: Any) -> Progress:
        """What ``dataclasses.asdict`` made of one, in this version or an older one, which had fewer fields.

        Raises:
            ValueError: anything else, a newer version's among it.
        """
        if not isinstance(saved, dict) or not {"step", "logged"} <= saved.keys():
            raise ValueError("its progress has no step")
        if unknown := saved.keys() - {field.name for field in fields(cls)}:
            names = ", ".join(sorted(map(str, unknown)))
            raise ValueError(f"written by another version of this project: its progress has {names}")
        return cls(**saved)

    def times(self, images: float) -> dict[str, float]:
        """What a row says of time, ``images`` having been trained on since the last full row."""
        return {
            "images_per_sec": images / self.seconds,
            "data_wait_pct": 100 * self.waited / self.seconds,
            "val_seconds": self.validating,
            "save_seconds": self.saving,
        }

    def reset_times(self) -> None:
        self.seconds = self.waited = self.validating = self.saving = 0.0

    def note_epoch(self, val_acc: float, patience: int) -> None:
        """Divide the learning rate, three times at most, where ``patience`` epochs brought nothing better."""
        self.stale = 0 if val_acc > self.plateau_acc else self.stale + 1
        self.plateau_acc = max(val_acc, self.plateau_acc)
        if self.stale >= patience and self.drops < 3:
            self.drops, self.stale = self.drops + 1, 0
