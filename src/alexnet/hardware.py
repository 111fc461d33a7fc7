"""What the machine can do: the device, the precision that gains on it, its memory, and how to name it in a record."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "autocast", "can_compile", "cpp_compiler", "describe", "keep_freed_memory", "out_of_memory", "pick_device",
    "pick_precision", "versions",
]  # fmt: skip


def pick_device(name: str = "auto") -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``mps``. ValueError where torch cannot use it here."""
    if name == "cpu":
        return torch.device(name)
    no_cuda = _why_no_cuda()
    present = {"cuda": not no_cuda, "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present.get(name, False):
        here = ", ".join(kind for kind, yes in present.items() if yes)
        why = no_cuda if name == "cuda" else "not present on this machine"
        raise ValueError(f"--device {name}: {why}; allowed: auto, {here}")
    return torch.device(name)


def _why_no_cuda() -> str:
    """Why this torch cannot compute with CUDA here; empty where it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built without it (pytorch.org/get-started has builds with it)"
    if not torch.cuda.is_available():
        return "no card was found, or its driver is too old for this torch"
    card = torch.cuda.get_device_capability()
    if torch.version.hip is None and not _has_code_for(card, torch.cuda.get_arch_list()):
        return f"this torch has no code for a card of compute capability {card[0]}.{card[1]}"
    return ""


def _has_code_for(card: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Whether a card runs what was built for ``sm_86`` (its own major version) or ``compute_90`` (PTX: any later)."""
    for each in built_for:
        kind, _, number = each.partition("_")
        built = divmod(int(number.rstrip("af")), 10)
        if built <= card and (kind == "compute" or built[0] == card[0]):
            return True
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16``. ``auto`` takes bf16 where matrix products run in it natively, hence faster."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16")) else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Run the network's products in ``precision``; weights stay as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` finds what it needs: a C++ compiler for a CPU; for CUDA a C compiler, Python's headers
    (Debian has them apart, in python3-dev) and Triton, which supports compute capability 7.0 and above.
    """
    if device.type != "cuda":
        return cpp_compiler() is not None
    if find_spec("triton") is None or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # where Triton looks
    headers = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    return headers.is_file() and _compiler("CC", "gcc", "clang") is not None


def cpp_compiler() -> str | None:
    """The path of this machine's C++ compiler: ``CXX``, g++ or clang++; None where there is none."""
    return _compiler("CXX", "g++", "clang++")


def _compiler(variable: str, *names: str) -> str | None:
    wanted = (os.environ.get(variable), *names)
    return next((path for name in wanted if name and (path := shutil.which(name))), None)


def keep_freed_memory() -> None:
    """Make the C allocator keep freed memory and use huge pages. Linux with glibc; elsewhere nothing happens.

    By default glibc maps each large tensor anew and hands it back when freed, so every step of training touches
    gigabytes of fresh pages, one fault each 4 kB. Keeping them makes a step on two cores about a third shorter.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first large allocation
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    libc.mallopt(m_arena_max, 1)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch has a class of its own for devices, and none for the CPU."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine, for a record: the device's name, processor, cores and memory."""
    found: dict[str, str | int] = {"device": device.type, "cpu": _cpu_name(), "cores": os.cpu_count() or 1}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions that decide a result: this package, Python, torch, torchvision, accelerate, CUDA."""
    import accelerate
    import torchvision

    import alexnet

    found = {
        "alexnet": alexnet.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "accelerate": accelerate.__version__,
    }
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
