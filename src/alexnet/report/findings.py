"""What one run came to, in sentences: first the verdict, then what a reader should know of it."""

from __future__ import annotations

from alexnet.report.record import Record, isolated

__all__ = ["findings"]

_WAITS = 10.0  # percent of the time of steps, from which waiting for data is worth a sentence
_RISES = 0.05  # nats above its least, from which validation's loss is said to have risen


def findings(record: Record) -> list[str]:
    """The verdict, and up to five sentences more."""
    found = [_verdict(record)]
    figures = record.figures()
    if figures and record.classes and figures[0].interval and figures[0].interval[0] <= 100 / record.classes:
        found.append(
            f"That is not more than guessing among {record.classes} classes gives ({100 / record.classes:.3g}%): it "
            "has not learned, or its images are too few to tell."
        )
    found += _overfitting(record) + _waiting(record)
    if record.resumed_at:
        steps = ", ".join(f"{step:,}" for step in record.resumed_at)
        found.append(f"It was resumed at step{'s' * (len(record.resumed_at) > 1)} {steps}.")
    for commit in dict.fromkeys(part.commit for part in record.parts):
        if commit.endswith("+"):
            found.append(f"Its code was commit {commit[:-1]} and changes that were never committed.")
    return found


def _verdict(record: Record) -> str:
    if not record.rows:
        return f"{record.name} has logged no row yet: there is nothing to judge."
    row, total = record.final or record.rows[-1], record.total_steps
    epoch = f", epoch {row['epoch']:.3g}" if row.get("epoch") else ""
    place = f"step {row['step']:,}" + (f" of {total:,}" if total else "") + epoch
    if record.diverged:
        return f"The loss of {record.name} is no number at {place}: it has diverged."
    figures = record.figures()
    right = "not yet validated"
    if figures:
        right = f"right on {figures[0].value:.2f}% of the {figures[0].images}"
        right += f" of {isolated(str(record.data['name']))}" if record.data.get("name") else ""
        right += " (95% interval {:.2f} to {:.2f}%)".format(*figures[0].interval) if figures[0].interval else ""
    if record.finished and record.last_step == total:
        return f"At its end ({place}), {record.name} is {right}."
    said = f"At {place}, {record.name} is {right}."
    if record.finished:
        return f"{said} It ended there by --max-steps, before the end of its schedule."
    return f"{said} It is not at its end: it goes on, or was stopped, or failed. This is no result yet."


def _overfitting(record: Record) -> list[str]:
    rows = [row for row in record.full_rows if row.get("val_loss") is not None and row.get("train_loss") is not None]
    if len(rows) < 3:
        return []
    least, last = min(rows, key=lambda row: row["val_loss"]), rows[-1]
    rise = last["val_loss"] - least["val_loss"]
    if rise < _RISES or last["train_loss"] >= least["train_loss"]:
        return []
    return [
        f"It overfits: since step {least['step']:,} validation's loss has risen by {rise:.3f} to "
        f"{last['val_loss']:.3f} while training's fell from {least['train_loss']:.3f} to {last['train_loss']:.3f}."
    ]


def _waiting(record: Record) -> list[str]:
    spent = record.seconds()
    stepping = spent.get("computing", 0.0) + spent.get("waiting", 0.0)
    share = 100 * spent["waiting"] / stepping if stepping else 0.0
    return [f"Its steps waited for data {share:.0f}% of their time."] if share >= _WAITS else []
