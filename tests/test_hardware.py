"""Which device can be used, and what torch.compile needs, on machines that this one is not."""

import sysconfig
from pathlib import Path

import pytest
import torch

from alexnet import hardware

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120"]


@pytest.mark.parametrize(
    ("card", "built_for", "runs"),
    [
        ((6, 1), WHEEL, False), ((7, 0), WHEEL, False), ((7, 5), WHEEL, True), ((8, 9), WHEEL, True),
        ((9, 0), WHEEL, True), ((10, 0), WHEEL, False), ((10, 0), [*WHEEL, "compute_90"], True),
        ((6, 1), ["compute_90"], False), ((12, 1), WHEEL, True), ((7, 5), [], False),
    ],
)  # fmt: skip
def test_a_card_is_used_if_torch_has_code_for_it(
    monkeypatch: pytest.MonkeyPatch, card: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: card)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    assert (hardware.pick_device().type == "cuda") == runs
    if not runs:
        with pytest.raises(
            ValueError, match=rf"--device cuda: .* no code for a card of .* {card[0]}\.{card[1]}; allowed"
        ):
            hardware.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"--device cuda: no card was found, or its driver is too old .*; allowed: auto"
    ):
        hardware.pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"--device cuda: this torch was built without it .*; allowed: auto, cpu"):
        hardware.pick_device("cuda")


def test_a_card_compiles_with_pythons_headers_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(hardware, "find_spec", lambda name: name)
    monkeypatch.setattr(hardware, "_compiler", lambda *names: "/usr/bin/gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda *names: str(tmp_path))
    assert not hardware.can_compile(torch.device("cuda"))
    (tmp_path / "Python.h").touch()
    assert hardware.can_compile(torch.device("cuda"))
