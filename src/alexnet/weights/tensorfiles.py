"""Files of tensors, read without running any code in them. Whatever is wrong with one is a ValueError of one line."""

from __future__ import annotations

import errno
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from alexnet.hardware import out_of_memory

__all__ = ["first_line", "read_pickled", "read_safetensors"]

CAN_BE_MAPPED = sys.platform != "win32"  # there, a run that is at work could not replace a file that is mapped


def read_pickled(path: Path, *, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU: tensors, numbers, strings, lists and dicts of them.

    The sums of the file's parts are compared first, which torch writes and never reads: half a second for 480 MB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed since it was written, foreign, or a pickle that would run code.
        MemoryError: memory ran out, or as torch says so: ``hardware.out_of_memory``.
    """
    _must_exist(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                # torch's reader takes a part with this bit for a folder, and gives zeros
                folders = [part.filename for part in file.infolist() if part.external_attr & 0x10]
                if damaged := file.testzip() or next(iter(folders), None):
                    raise ValueError(f"{damaged} is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and CAN_BE_MAPPED)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused: loading it would run code, or it is not a file of weights") from error
    except Exception as error:  # there is no error that a damaged file cannot lead these readers to
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which torch's reader gives of some cut files
            raise
        if out_of_memory(error):  # the file may be whole
            raise
        raise ValueError(f"{path}: cut short, damaged or not a file of weights ({first_line(error)})") from error


def read_safetensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a ``.safetensors`` by name, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short or foreign.
    """
    _must_exist(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if CAN_BE_MAPPED:
            return safetensors.torch.load_file(path, device), metadata
        tensors = safetensors.torch.load(path.read_bytes())
        return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: cut short or not a safetensors file ({first_line(error)})") from error


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def first_line(error: Exception) -> str:
    """What an error says, without the rest of a long message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
