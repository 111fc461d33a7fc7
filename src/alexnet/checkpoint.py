"""Files of weights and the run folder: written atomically, read without running code in them.

A run folder holds ``config.json`` (what ran where), ``metrics.jsonl`` (the logged rows), ``last.ckpt`` (everything that
resuming needs), ``best.safetensors`` (the weights with the best validation accuracy), ``curves.png`` and the tracker's
own files. ``load_run`` reads such a folder, ``load_model`` the network in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from alexnet.data import datasets
from alexnet.data.datasets import Dataset
from alexnet.data.images import is_lfs_pointer
from alexnet.errors import FieldError, one_line
from alexnet.model import WEIGHTS, AlexNet_2012, ModelInfo
from alexnet.recipes import Recipe, recipe_from_config
from alexnet.system import out_of_memory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "BEST", "CONFIG", "LAST", "METRICS", "Run", "check_file", "check_out", "check_run_dir", "check_unused",
    "is_scheduled", "load_checkpoint", "load_model", "load_run", "load_weights", "lock_run_dir",
    "read_config", "read_pickled", "read_rows", "read_safetensors", "save_checkpoint", "save_weights",
    "write_atomically", "write_config",
]  # fmt: skip

CONFIG, METRICS, LAST, BEST = "config.json", "metrics.jsonl", "last.ckpt", "best.safetensors"
FORMAT = "alexnet-2012/1"
LOCK = ".lock"
PRETRAINED = Path(__file__).with_name("pretrained")
CAN_MAP = sys.platform != "win32"  # on Windows, a run cannot replace a file that another process has mapped


# --- writing


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it over ``path``.

    After a kill or a power cut the folder holds the old file or the new one, whole: the file is synced before the
    rename, and the folder after it, where the system can.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:  # Windows syncs only files that are open for writing
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_checkpoint(path: Path, state: Mapping[str, Any], info: ModelInfo) -> None:
    """Write everything that resuming needs: tensors, numbers, strings, and lists and dicts of them."""
    content = _without_numpy({"format": FORMAT, "card": info.to_json(), **state})

    def write(file: Path) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer hides the disk's own error
            raise OSError(f"{path}: cannot write the checkpoint; is the disk full? ({one_line(error)})") from error

    write_atomically(path, write)


def _without_numpy(value: Any) -> Any:
    """``value`` with NumPy's numbers as Python's, because ``read_pickled`` refuses NumPy's."""
    if isinstance(value, Mapping):
        return {name: _without_numpy(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numpy(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def save_weights(path: Path, weights: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write a state dict as safetensors, with ``info`` in its metadata."""
    metadata = {"format": "pt", "alexnet": FORMAT, "card": info.to_json()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    # not save_file, which makes files that only their owner can read
    write_atomically(path, lambda file: file.write_bytes(safetensors.torch.save(tensors, metadata)))


def check_out(path: Path, suffix: str) -> None:
    """Check that a file can be written to ``path``, before the work on it begins.

    Raises:
        FieldError: ``path`` (``out``) does not end in ``suffix``, is a folder, or its folder does not exist.
    """
    if path.suffix != suffix:
        raise FieldError("out", f"a file name that ends in {suffix}", str(path))
    if path.is_dir() or not path.parent.is_dir():
        raise FieldError("out", "a file in a folder that exists", str(path))


# --- reading


def read_pickled(path: Path, *, mmap: bool = False, safe_globals: tuple[Any, ...] = ()) -> Any:
    """What ``torch.save`` wrote, on the CPU. Only tensors, plain Python values and ``safe_globals`` are accepted.

    The checksums of the file's parts, which torch writes but does not check, are compared first: half a second for
    480 MB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, changed since it was written, not a checkpoint, or a pickle that would run code.
        MemoryError, RuntimeError: out of memory (``system.out_of_memory``).
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                # torch's reader treats a part with this bit as a folder, and returns zeros
                folders = [part.filename for part in file.infolist() if part.external_attr & 0x10]
                if damaged := file.testzip() or next(iter(folders), None):
                    raise ValueError(f"checksum mismatch in {damaged}")
        with torch.serialization.safe_globals(list(safe_globals)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Validating sparse tensor")
            can_map = mmap and CAN_MAP and zipfile.is_zipfile(path)  # a file of an old torch is no zip archive
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except pickle.UnpicklingError as error:
        reason = "loading it would run code, or it is not a file of torch.save (with its default pickle_protocol)"
        raise ValueError(f"{path}: refused, because {reason}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # damaged files make these readers raise errors of any class
        if out_of_memory(error):
            raise
        raise ValueError(f"{path}: truncated, damaged or not a file of weights ({one_line(error)})") from error


def read_safetensors(path: Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a ``.safetensors`` file by name, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or not safetensors.
    """
    check_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if CAN_MAP:
            return safetensors.torch.load_file(path, str(device)), metadata
        tensors = safetensors.torch.load(path.read_bytes())
        return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({one_line(error)})") from error


def check_file(path: Path) -> None:
    """FileNotFoundError if there is no such file, ValueError if Git LFS has left a pointer in its place."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        if is_lfs_pointer(file.read(100)):
            raise ValueError(f"{path}: a Git LFS pointer, not the file itself; download it with: git lfs pull")


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file that ``save_checkpoint`` wrote, on the CPU; its ``ModelInfo`` is under ``info``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, written by another program, or a pickle that would run code.
    """
    state = read_pickled(path, mmap=mmap)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this project; `alexnet convert` reads weights of others")
    state["info"] = ModelInfo.from_json(state.pop("card", None), path)
    return state


def load_weights(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read what ``save_weights`` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or without a ``ModelInfo``.
    """
    weights, metadata = read_safetensors(path)
    if FORMAT not in (metadata.get("alexnet"), metadata.get("format")):  # 0.1.0 wrote it as the format
        raise ValueError(f"{path}: does not describe its network; `alexnet convert` reads weights of others")
    return weights, ModelInfo.from_json(metadata.get("card"), path)


def load_model(path: str | Path) -> AlexNet_2012:
    """A trained network, on the CPU, in evaluation mode, without gradients.

    Args:
        path: a run folder, a checkpoint, a ``.safetensors`` file, a folder that ``save_pretrained`` wrote, or the name
            of a network that comes with this package: ``cifar10-small``. A run folder gives its last weights, or their
            moving average if the recipe has one; name ``best.safetensors`` in it for the best validation accuracy.

    The network's ``info`` holds its class names and the normalisation of its input. It is None if the network was saved
    by ``save_pretrained`` without one.

    Raises:
        FileNotFoundError: nothing there to load.
        ValueError: damaged, written by another program, or unsafe.
    """
    bundled = PRETRAINED / f"{path}.safetensors"
    path = Path(path)
    if not path.exists():
        if not bundled.is_file():
            names = ", ".join(sorted(file.stem for file in PRETRAINED.glob("*.safetensors")))
            raise FileNotFoundError(f"{path}: no such file, run folder or bundled network ({names})")
        path = bundled
    if path.is_dir():
        found = [path / name for name in (LAST, BEST, WEIGHTS) if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: holds none of {LAST}, {BEST} and {WEIGHTS}")
        path = found[0]
    if path.name == WEIGHTS:
        return AlexNet_2012.from_pretrained(path.parent).float().requires_grad_(False)
    if path.suffix == ".safetensors":
        weights, info = load_weights(path)
    else:
        state = load_checkpoint(path, mmap=True)
        weights, info = state.get("average", state.get("model", {})), state["info"]
    try:
        model = AlexNet_2012.from_weights(weights, info)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model.float().requires_grad_(False)


# --- the run folder


@dataclass(frozen=True)
class Run:
    """A run folder, as ``load_run`` reads it."""

    folder: Path
    config: dict[str, Any]
    """The content of ``config.json``."""
    recipe: Recipe
    rows: list[dict[str, Any]]
    """The rows of ``metrics.jsonl``, oldest first; None stands for NaN and infinities."""

    @property
    def runtime(self) -> dict[str, Any]:
        """The stored fields of ``Runtime``."""
        return self.config.get("runtime") or self.config["recipe"]  # type: ignore[no-any-return]  # 0.1.0: in one

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.config.get("classes") or ())

    @property
    def steps_per_epoch(self) -> int:
        if "steps_per_epoch" in self.config:
            return int(self.config["steps_per_epoch"])
        return -(-int(self.config["data"]["train"]) // self.recipe.batch_size)  # 0.1.0 did not store it

    @property
    def val_every(self) -> int:
        """Steps between full rows: the recipe's, but at most an epoch. Older runs did not store it."""
        return int(self.config.get("val_every", self.recipe.val_every))

    @property
    def total_steps(self) -> int:
        """Steps of the whole schedule."""
        return int(self.config.get("total_steps") or self.recipe.epochs * self.steps_per_epoch)

    @property
    def step(self) -> int:
        """The step of the last row; 0 if there is none."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def last_step(self) -> int:
        """The step at which the run ends: the last of its schedule, or ``max_steps``."""
        return min(self.total_steps, self.runtime.get("max_steps") or self.total_steps)

    @cached_property
    def full_rows(self) -> list[dict[str, Any]]:
        """The rows that have training and validation metrics; a row at an epoch's end may have only its accuracy."""
        return [row for row in self.rows if "train_loss" in row and "val_acc" in row]

    @property
    def final(self) -> dict[str, Any]:
        """The last full row: the run's result. Empty if there is none."""
        return self.full_rows[-1] if self.full_rows else {}

    @property
    def best(self) -> dict[str, Any]:
        """``step`` and ``val_acc`` of the best validation, which was picked on those images. Empty if there is none."""
        found = [
            {"val_acc": value, "step": row["step"]}
            for row in self.rows
            if (value := row.get("val_acc", row.get("epoch_val_acc"))) is not None
            and is_scheduled(row["step"], self.val_every, self.steps_per_epoch, self.total_steps)
        ]
        return max(found, key=lambda each: each["val_acc"], default={})  # the first of equal ones

    def model(self) -> AlexNet_2012:
        """The network of ``load_model``."""
        return load_model(self.folder)

    def dataset(self, data: str | None = None, data_dir: str | None = None) -> Dataset:
        """The run's images, split as the run split them; or another data set, as it is.

        If the run's images have changed since it was started, a note of the data set says so.

        Args:
            data, data_dir: as in ``Recipe`` and ``Runtime``; by default, and if they name the run's own, the run's.
        """
        loaded = datasets.load(data or self.recipe.data, data_dir or self.runtime.get("data_dir", "data"))
        if not self.owns(data):
            return loaded
        dataset, before = loaded.prepare(self.recipe), self.config["data"].get("fingerprint")
        if before in (None, now := dataset.fingerprint()):
            return dataset
        note = (
            f"warning: the images of {self.recipe.data} have changed since the run was started (fingerprint {before}, "
            f"now {now}); those to validate on may be among those that it was trained on"
        )
        return replace(dataset, notes=(*dataset.notes, note))

    def owns(self, data: str | None) -> bool:
        """Whether ``data`` names the run's own images; None does."""
        return data is None or os.path.realpath(data) == os.path.realpath(self.recipe.data)


def is_scheduled(step: int, val_every: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Whether an uninterrupted run validates at this step."""
    return step % val_every == 0 or step % steps_per_epoch == 0 or step == total_steps


def load_run(folder: str | Path) -> Run:
    """Read a run folder of this version or of 0.1.0.

    Raises:
        FileNotFoundError: no ``config.json`` there.
        ValueError: a file in it is damaged; the message names the file.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        recipe = recipe_from_config(config["recipe"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: holds no recipe") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    if not isinstance(config.get("data"), dict) or not isinstance(config["data"].get("train"), int):
        raise ValueError(f"{folder / CONFIG}: does not describe its data")
    parts = config.get("parts") or []
    described = isinstance(parts, list) and all(
        isinstance(part, dict) and isinstance(part.get("versions") or {}, dict) for part in parts
    )
    if not described or not isinstance(config.get("runtime") or {}, dict):
        raise ValueError(f"{folder / CONFIG}: does not describe where and how the run was computed")
    return Run(folder, config, recipe, read_rows(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``. FileNotFoundError if there is none, ValueError if it is damaged."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: not a run folder, because it has no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must be a JSON object")
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    # a class name may hold half of a surrogate pair, which becomes an escape that JSON reads back
    write_atomically(folder / CONFIG, lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``, none if there is no such file. A last line that a kill cut short is dropped.

    Raises:
        ValueError: another line is not a row; the message has its number.
    """
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    rows = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end was cut short
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_row = isinstance(row, dict) and type(row.get("step")) is int and type(row.get("epoch")) in (int, float)
        if not is_row or not all(type(value) in (int, float, type(None)) for value in row.values()):
            raise ValueError(f"{path}, line {number}: not a row of metrics: {line[:60]!r}")
        rows.append(row)
    return rows


@contextlib.contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Create ``folder`` and keep other processes' runs out of it. ValueError if one is using it.

    Only this process has the lock: it ends with the process, even if that is killed, and its data workers do
    not inherit it, as they would with ``flock``. Must not be nested. On Windows, and on file systems without locks, no
    lock is taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        if fcntl:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ValueError(f"{folder}: in use by another run; choose a different folder") from None
            except OSError:
                pass
        yield


def check_unused(folder: Path) -> None:
    """ValueError if ``folder`` has files, other than those left by a run that was killed as it started."""
    if folder.exists() and {entry.name for entry in folder.iterdir()} - {LOCK, f"{CONFIG}.tmp"}:
        if (folder / CONFIG).exists():
            raise ValueError(f"{folder}: already exists; choose a different folder, or resume the run in it")
        raise ValueError(f"{folder}: exists and holds no run; choose a new or empty folder")


def check_run_dir(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """ValueError if a run of ``recipe`` cannot start in ``folder``, or cannot be resumed there.

    A run that was killed before it wrote anything is resumed from its start, so a missing or empty folder is not an
    error.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a folder")
    if (folder / LOCK).is_file():
        with lock_run_dir(folder):
            pass
    if not (resume and (folder / CONFIG).is_file()):
        check_unused(folder)
    else:
        stored = load_run(folder).recipe
        if stored != recipe:
            names = [field.name for field in dataclasses.fields(Recipe) if field.compare]
            differing = [name for name in names if getattr(stored, name) != getattr(recipe, name)]
            raise ValueError(
                f"{folder}: the run was started with "
                + ", ".join(f"{name} {getattr(stored, name)} (not {getattr(recipe, name)})" for name in differing)
            )
