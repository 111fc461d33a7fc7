"""What the paper's experiments measure."""

from __future__ import annotations

from alexnet.reproduce.experiment import Measure, Outcome

__all__ = ["OVERFITTING", "TEST_ERROR", "epochs_until", "training_loss"]


def _test_error(outcome: Outcome) -> float:
    return 100 - outcome.judge("test")["top1"]


def _overfitting(outcome: Outcome) -> float:
    return outcome.judge("test")["loss"] - outcome.judge("train")["loss"]


TEST_ERROR = Measure("test error, %", _test_error)
OVERFITTING = Measure("test loss − training loss, nats", _overfitting)
"""Both of the last weights, without dropout and on images as they are."""


def epochs_until(error: float, of: str = "train_acc") -> Measure:
    """Epochs until an error of ``error`` percent: the training error over an epoch, or ``val_acc``'s.

    Between two rows the error is taken to fall in a straight line. None where it was never reached.
    """
    what = "training" if of == "train_acc" else "test"

    def measure(outcome: Outcome) -> float | None:
        epoch, above = 0.0, 100.0
        for row in outcome.rows:
            if row.get(of) is None:
                continue
            now = 100 - row[of]
            if now <= error:
                return float(epoch + (row["epoch"] - epoch) * (above - error) / (above - now))
            epoch, above = row["epoch"], now
        return None

    return Measure(f"epochs until {error:g}% {what} error", measure)


def training_loss(what: str, *, first: int = 1) -> Measure:
    """The mean of ``train_loss`` over the run's first ``first`` rows, as ``what``; None where it was lost."""

    def measure(outcome: Outcome) -> float | None:
        losses = [row["train_loss"] for row in outcome.rows if "train_loss" in row][:first]
        return None if None in losses else sum(losses) / len(losses)

    return Measure(what, measure)
