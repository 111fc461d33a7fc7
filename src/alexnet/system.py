"""The machine: device, precision, memory, compilers, signals, and what a record says about them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from alexnet.errors import FieldError

__all__ = [
    "autocast", "cache_folder", "can_compile", "cpp_compiler", "describe", "git_commit", "keep_freed_memory",
    "out_of_memory", "pick_device", "pick_precision", "signals", "sum_dtype", "versions",
]  # fmt: skip

SECOND_SIGNAL_S = 1.0  # a second signal within this time counts as a repetition of the first


def pick_device(name: str = "auto") -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``mps``. ``FieldError`` if this machine or this torch lacks it."""
    reason = {"cuda": _why_no_cuda(), "mps": "" if torch.backends.mps.is_available() else "no MPS device", "cpu": ""}
    available = [kind for kind, problem in reason.items() if not problem]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise FieldError("device", f"auto, {' or '.join(available)} here", name, f" ({reason.get(name, 'unknown')})")
    return torch.device(name)


def _why_no_cuda() -> str:
    """Why this torch cannot use CUDA here; an empty string if it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built without CUDA; see pytorch.org/get-started"
    if not torch.cuda.is_available():
        return "no GPU found, or its driver is too old for this torch"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and not _supports(capability, torch.cuda.get_arch_list()):
        return f"this torch does not support a GPU of compute capability {capability[0]}.{capability[1]}"
    return ""


def _supports(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a GPU runs code built for ``sm_86`` (same major version) or ``compute_90`` (any later one)."""
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        built = divmod(int(number.rstrip("af")), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16``. ``auto`` picks bf16 if the device multiplies matrices faster in it."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16"))
        return "bf16" if native and _bf16_is_faster_on_cpu() else "fp32"
    return "fp32"


@functools.cache
def _bf16_is_faster_on_cpu() -> bool:
    """Whether a matrix product is faster in bfloat16, measured once a process in about 20 ms.

    The processor's features do not predict it: an Intel Xeon with ``avx512_bf16`` but without AMX takes twice as long
    in bfloat16 as in float32.
    """

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype)
        return min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=6))

    return seconds(torch.bfloat16) < seconds(torch.float32)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16 if ``precision`` is ``bf16``, else a context without autocast."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype for sums over many images: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` finds what it needs: a C++ compiler on a CPU; on CUDA Triton, a GPU of compute
    capability 7.0 or above, a C compiler and Python's headers (python3-dev on Debian).
    """
    if device.type != "cuda":
        return cpp_compiler() is not None
    if find_spec("triton") is None or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # where Triton looks
    headers = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    return headers.is_file() and _find(os.environ.get("CC"), "gcc", "clang") is not None


def cpp_compiler() -> str | None:
    """The path of a C++ compiler: ``CXX``, g++ or clang++; None if there is none."""
    return _find(os.environ.get("CXX"), "g++", "clang++")


def _find(*names: str | None) -> str | None:
    return next((path for name in names if name and (path := shutil.which(name))), None)


def keep_freed_memory() -> None:
    """Make glibc's allocator keep freed memory and use huge pages; elsewhere this does nothing.

    By default glibc maps each large tensor and returns it when freed, so every training step touches gigabytes of new
    pages, with a page fault for each 4 kB. Keeping them shortens a step on two cores by about a third.
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
    """Whether ``error`` says that memory ran out. torch has a class for CUDA, and none for a CPU and MPS."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    texts = ("allocate memory", "not enough memory", "out of memory")  # Linux and macOS, Windows, MPS
    return type(error) is RuntimeError and any(text in str(error) for text in texts)


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int | None]]:
    """Turn the first SIGINT or SIGTERM into a request to stop; yields a function that returns its number, or None.

    A second signal raises KeyboardInterrupt with its number, unless it comes within a second: a job scheduler signals
    every process, and torchrun passes on what it gets. Outside the main thread, which gets no signals, nothing is
    caught, and a signal that the process ignores stays ignored. Nested blocks share what they catch.
    """
    current = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    outer = (getattr(handler, "caught", None) for handler in current.values())
    caught: list[tuple[int, float]] = next((each for each in outer if each is not None), [])

    def note(number: int, _frame: object) -> None:
        now = time.monotonic()
        if caught and now - caught[0][1] > SECOND_SIGNAL_S:
            raise KeyboardInterrupt(number)
        caught.append((number, now))

    note.caught = caught  # type: ignore[attr-defined]
    is_main = threading.current_thread() is threading.main_thread()
    handled = [number for number, handler in current.items() if is_main and handler not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield lambda: caught[0][0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine, for a record: device, processor, cores, memory in GiB and the GPU's name."""
    found: dict[str, str | int] = {"device": device.type, "cpu": _cpu_name(), "cores": os.cpu_count() or 1}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions that affect a result: this package, Python, torch, torchvision, accelerate and CUDA."""
    import accelerate
    import torchvision

    import alexnet

    found = {
        "alexnet": alexnet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "accelerate": accelerate.__version__,
    }
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


@functools.cache
def git_commit() -> str | None:
    """The commit of the source tree that this package runs from, with ``+`` if src/ or benchmarks/ have changes.

    None outside a checkout, and in a checkout of something else inside which the package is installed.
    """
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--full-name", here.name) != f"src/alexnet/{here.name}":
            return None
        changed = git("diff", "--name-only", "HEAD", "--", ":/src", ":/benchmarks")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cache_folder() -> Path:
    """This project's cache folder, which may not exist yet.

    Never the folder for temporary files, where others could put code that ``native`` would load: for a user without a
    home it is a place where nothing can be written.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        root = Path(os.devnull)
    return root / "alexnet-2012"
