"""Files of tensors where a mapped file cannot be replaced. What is wrong with one is in test_checkpoint.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from alexnet.weights import tensorfiles
from alexnet.weights.tensorfiles import read_pickled, read_safetensors

LENGTH = 100_000


def _read(path: Path) -> Tensor:
    read = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickled(path, mmap=True)
    assert isinstance(read["weight"], Tensor)
    return read["weight"]


@pytest.mark.parametrize("name", ["best.safetensors", "last.ckpt"])
def test_where_no_mapped_file_can_be_replaced_none_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tensorfiles, "CAN_BE_MAPPED", False)  # as on Windows
    path = tmp_path / name
    weights = {"weight": torch.ones(LENGTH)}
    torch.save(weights, path) if name == "last.ckpt" else safetensors.torch.save_file(weights, path)
    read = _read(path)
    path.write_bytes(bytes(path.stat().st_size))  # a mapped tensor would show it
    assert torch.equal(read, torch.ones(LENGTH))
