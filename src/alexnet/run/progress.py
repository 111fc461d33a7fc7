"""Where a run is: with the weights, optimiser, running sums and random states, all that resuming needs."""

from __future__ import annotations

from dataclasses import dataclass, field

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
