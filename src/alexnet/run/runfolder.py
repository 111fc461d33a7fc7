"""The run folder: whether a run may begin or go on in it, and the config.json that says what ran where."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet import hardware
from alexnet.files import git_commit, write_atomically
from alexnet.lrn import written_in
from alexnet.recipes import Recipe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from alexnet.run.session import Session

__all__ = [
    "alone_in", "begin_in", "check_folder", "continued", "describe_run", "headline", "is_unused", "nothing_left",
    "read_config", "write_config",
]  # fmt: skip

CONFIG = "config.json"
LOCK = ".lock"
# A continued run may differ from its beginning in these: they do not change what is computed,
FREE = {"max_steps", "save_every", "tracker", "parallel"}
# and in these, as far as what comes of them is the same: `continued` compares that.
RESOLVED = {"data", "data_dir", "device", "precision", "loader", "compile"}


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. FileNotFoundError or ValueError, in one line, where there is none or it is broken."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: not a run folder, it has no {CONFIG}")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    return config


def is_unused(folder: Path) -> bool:
    """Whether a run can begin in ``folder``: not there, or empty but for the lock of a run that wrote nothing else."""
    return not folder.exists() or (folder.is_dir() and all(entry.name == LOCK for entry in folder.iterdir()))


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make ``folder``, and keep other processes' runs out of it until the block's end. ValueError where one is in it.

    The lock is the system's and this process's own: it ends with the process, even a killed one, and the workers that
    outlive that for a moment do not have it, as they would have one by ``flock``. Not to be nested: the inner block's
    end is the lock's. On Windows, and in file systems without locks, nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        if fcntl:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ValueError(f"--out {folder}: another run is at work in it; name another folder") from None
            except OSError:
                pass
        yield


@contextlib.contextmanager
def begin_in(folder: Path, recipe: Recipe, *, resume: bool) -> Iterator[None]:
    """``alone_in`` for a run, after another look: one may have come and gone while this one read its data.

    What a killed run was writing is taken away.
    """
    with alone_in(folder):
        _check(folder, recipe, resume=resume)
        for half_written in folder.glob("*.tmp"):  # by a run that was killed
            half_written.unlink()
        yield


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """ValueError where a run cannot begin in ``folder``, or, to be resumed, is of another recipe or still at work.

    A run killed before it wrote anything is resumed from its start, so a folder that does not exist yet is no error.
    """
    if (folder / LOCK).is_file():
        with alone_in(folder):
            pass
    _check(folder, recipe, resume=resume)


def _check(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    if not resume:
        if not is_unused(folder):
            raise ValueError(f"--out {folder}: already exists; name another, or continue the run in it with --resume")
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: a file; name a run's folder")
    if (folder / CONFIG).is_file():
        before = dataclasses.asdict(Recipe()) | read_config(folder)["recipe"]
        for name, value in dataclasses.asdict(recipe).items():
            if name not in FREE | RESOLVED and before[name] != value:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"--resume: {folder} was started with {flag} {before[name]}, not {value}")


def describe_run(s: Session) -> dict[str, Any]:
    """The whole of what decides a run, for config.json and the tracker. ``parts`` has an entry a start or resume."""
    norm = s.card.normalization
    part = {
        "step": s.progress.step,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": s.device.type,
        "compiled": bool(s.compiled),
        "lrn": written_in(s.device),
        "processes": s.accelerator.num_processes,
        "hardware": hardware.describe(s.device),
        "versions": hardware.versions(),
        "commit": git_commit(),
    }
    return {
        "recipe": dataclasses.asdict(s.recipe),
        "seed": s.recipe.seed,
        "data": {
            "spec": s.recipe.data,
            "name": s.dataset.name,
            "fingerprint": s.dataset.fingerprint(),
            "train": len(s.dataset.train),
            "val": len(s.dataset.val),
            "val_split": s.dataset.val_split,
            "test": len(s.dataset.test or ()),
        },
        "classes": list(s.dataset.classes),
        "normalization": {"mean": norm.mean, "std": norm.std, "mean_image": bool(norm.mean_image)},
        "precision": "bf16" if s.accelerator.mixed_precision == "bf16" else "fp32",
        "loader": s.batches.kind,
        **{name: value for name, value in part.items() if name != "step"},
        "parts": [part],
    }


def continued(folder: Path, now: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The config of the run in ``folder`` once it goes on as ``now`` says, and what has changed, in words.

    What stood there of commit, hardware and versions stays, and ``parts`` grows by one.

    Raises:
        ValueError: other images, another precision or another loader: not the same run.
    """
    if not (folder / CONFIG).is_file():
        return now, ""
    before = read_config(folder)
    parts = before.get("parts") or [
        {"step": 0, **{name: before.get(name) for name in now["parts"][0] if name != "step"}}
    ]
    old, new = before.get("data", {}), now["data"]
    for name in ("fingerprint", "train", "val"):
        if name in old and old[name] != new[name]:
            raise ValueError(
                f"--data {new['spec']}: not the images that the run in {folder} began with ({name} {new[name]}, "
                f"not {old[name]})"
            )
    for name in ("precision", "loader"):
        if before.get(name, now[name]) != now[name]:
            raise ValueError(
                f"--{name} {now['recipe'][name]}: comes to {now[name]} here, and the run in {folder} began with "
                f"{before[name]}; --{name} {before[name]} goes on with it"
            )
    last, this = parts[-1], now["parts"][0]
    told = ("device", "processes", "compiled", "lrn")
    changes = [f"{name} {this[name]} (was {last[name]})" for name in told if last.get(name) not in (None, this[name])]
    kept = {name: before[name] for name in this if name in before}
    return now | kept | {"parts": [*parts, this]}, ", ".join(changes)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Make the run folder, if need be, and write config.json into it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    # half of a surrogate pair, from a name that is no valid text, becomes an escape that JSON reads back
    write_atomically(folder / CONFIG, lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace"))


def headline(s: Session, config: dict[str, Any]) -> str:
    """What is about to run, in two lines."""
    images = f"{len(s.dataset.train):,} training and {len(s.dataset.val):,} validation images"
    if s.dataset.val_split == "holdout":
        images += " held out of the training set"
    if s.dataset.test:
        images += f"; {len(s.dataset.test):,} test images, opened at the end"
    how = f"{config['device']}, {config['precision']}, {config['loader']} data{', compiled' if s.compiled else ''}"
    if s.compiled is None:
        how += ", not compiled: what torch.compile needs was not found"
    steps = f"steps {s.progress.step} to {s.last_step} of {s.total_steps}"
    return f"{s.recipe.name}: {s.dataset.name}, {images}\n{how}; {steps}; {s.folder}"


def nothing_left(s: Session) -> str:
    """That the run has reached its last step, and how to go on."""
    at = f"nothing left to do: the run in {s.folder} is at step {s.progress.step}"
    if s.last_step == s.total_steps:
        return f"{at}, its end"
    return f"{at}, where --max-steps ended it; to go on: --max-steps N, or --max-steps none for all {s.total_steps}"
