"""The machine: device and precision, what torch.compile needs, where the cache is, and whose commit it is."""

import importlib.util
import subprocess
import sysconfig
import timeit
from pathlib import Path

import pytest
import torch

from alexnet import system
from alexnet.errors import FieldError

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 1), WHEEL, False), ((7, 0), WHEEL, False), ((7, 5), WHEEL, True), ((8, 9), WHEEL, True),
        ((9, 0), WHEEL, True), ((10, 0), WHEEL, False), ((10, 0), [*WHEEL, "compute_90"], True),
        ((6, 1), ["compute_90"], False), ((12, 1), WHEEL, True), ((7, 5), [], False),
    ],
)  # fmt: skip
def test_a_gpu_is_used_if_torch_supports_it(monkeypatch, capability, architectures, runs):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    assert (system.pick_device().type == "cuda") == runs
    if not runs:
        with pytest.raises(FieldError, match=rf"{capability[0]}\.{capability[1]}") as error:
            system.pick_device("cuda")
        assert error.value.field == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FieldError, match="driver"):
        system.pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(FieldError, match="without CUDA"):
        system.pick_device("cuda")
    with pytest.raises(FieldError):
        system.pick_device("tpu")


@pytest.mark.parametrize(
    ("features", "seconds", "picked"),
    [
        ({"avx512_bf16": True}, {torch.bfloat16: 1.0, torch.float32: 2.0}, "bf16"),
        ({"avx512_bf16": True}, {torch.bfloat16: 2.0, torch.float32: 1.0}, "fp32"),
        ({"avx2": True}, {}, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_only_where_that_is_faster(monkeypatch, features, seconds, picked):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    monkeypatch.setattr(timeit, "repeat", lambda product, **kwargs: [seconds[product().dtype]])
    system._bf16_is_faster_on_cpu.cache_clear()
    assert system.pick_precision("auto", torch.device("cpu")) == picked
    assert system.pick_precision("bf16", torch.device("cpu")) == "bf16"
    system._bf16_is_faster_on_cpu.cache_clear()


@pytest.mark.parametrize(("capability", "picked"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_computes_in_bf16_from_ampere_on(monkeypatch, capability, picked):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert system.pick_precision("auto", torch.device("cuda")) == picked


def test_a_gpu_compiles_with_pythons_headers_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(system, "find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda *names: str(tmp_path))
    assert not system.can_compile(torch.device("cuda"))
    (tmp_path / "Python.h").touch()
    assert system.can_compile(torch.device("cuda"))


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(OSError, match="alexnet-2012"):
        system.cache_folder().mkdir(parents=True, exist_ok=True)


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    def git(*words):
        own = ["-c", "user.name=x", "-c", "user.email=x@y", *words]
        return subprocess.run(["git", *own], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def commit_of(place):
        spec = importlib.util.spec_from_file_location("copied_system", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.git_commit()

    own, other = tmp_path / "src" / "alexnet" / "system.py", tmp_path / "venv" / "alexnet" / "system.py"
    for place in (own, other):
        place.parent.mkdir(parents=True)
        place.write_bytes(Path(system.__file__).read_bytes())
    git("init", "-q")
    assert commit_of(own) is None  # not committed
    git("add", "src")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert commit_of(own) == commit
    assert commit_of(other) is None  # installed inside a checkout of something else
    (tmp_path / "README.md").write_text("a page changes nothing in a run")
    assert commit_of(own) == commit
    own.write_text(own.read_text() + "\n")
    assert commit_of(own) == commit + "+"
