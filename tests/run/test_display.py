"""What a run says of itself where there is no terminal."""

import pytest

from alexnet.run import display


def test_the_time_left_follows_from_the_steps_taken_and_not_from_a_row_owed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    shown = display.Display()
    shown.start(total=100, done=40)
    now += 60
    shown.row({"step": 40, "epoch": 0.4, "val_acc": 50.0})  # a minute of validation, which resuming owed
    now += 30
    assert shown.due()
    shown.show(50, {"train_loss": 2.0, "train_acc": 25.0, "images": 1280}, seconds=20)
    assert not shown.due()
    now += 60
    shown.row({"step": 60, "epoch": 0.6, "val_acc": 50.0})  # one that the schedule has: the next will take as long
    now += 30
    shown.show(70, {"train_loss": 2.0, "train_acc": 25.0, "images": 1280}, seconds=20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 40  epoch 0.40  val_acc 50.0%"
    assert lines[1] == "step 50/100  loss 2.000  acc 25.0%  64 images/s  2 min 30 s left"
    assert lines[3].endswith("64 images/s  2 min 00 s left")  # 120 s for 30 steps, 30 more
    assert display.duration(4 * 3600 + 290) == "4 h 04 min"
