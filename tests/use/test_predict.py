"""Classifying files: the same answers as one image at a time, in order, whatever lies between them."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.images import ahead, open_image
from alexnet.data.normalization import Normalization, encode_mean_image
from alexnet.data.transforms import EvalTransform, _shortened
from alexnet.model import AlexNet_2012
from alexnet.use.predict import Prediction, predict
from alexnet.weights.card import ModelCard

CLASSES = ("cat", "dog", "emu", "fox", "gnu", "hen", "owl")
NORM = Normalization((0.5, 0.4, 0.6), (1 / 255, 1 / 255, 1 / 255))


@pytest.fixture(scope="module")
def model() -> AlexNet_2012:
    torch.manual_seed(0)
    model = AlexNet_2012(len(CLASSES), init="he").eval().requires_grad_(False)
    model.classifier.fc8.weight.mul_(0.02)  # logits near 1, so that probabilities tell images apart
    model.card = ModelCard("classic", CLASSES, NORM, "noise")
    return model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven files of different shapes, modes and formats."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for number, (height, width, mode, ending) in enumerate(
        [
            (32, 32, "RGB", "png"),
            (80, 50, "RGB", "jpg"),
            (50, 90, "L", "png"),
            (1, 1, "RGB", "png"),
            (300, 260, "RGB", "jpg"),
            (40, 40, "RGBA", "png"),
            (64, 64, "RGB", "bmp"),
        ]
    ):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height))
        paths.append(folder / f"picture {number}.{ending}")
        coarse.convert(mode).save(paths[-1])
    return paths


def answers(model: AlexNet_2012, files: list[Path], **options: object) -> list[Prediction]:
    return list(predict(model, files, device="cpu", precision="fp32", **options))


def by_hand(model: AlexNet_2012, path: Path, norm: Normalization = NORM) -> dict[str, float]:
    with torch.inference_mode():
        logits = model(EvalTransform(224, norm)(open_image(path))[None])
    return dict(zip(CLASSES, logits.softmax(1)[0].tolist(), strict=True))


def test_batches_answer_as_single_images_do_and_in_order(model: AlexNet_2012, pictures: list[Path]) -> None:
    found = answers(model, pictures, top_k=7, batch_size=3)
    assert [answer.file for answer in found] == [str(path) for path in pictures]
    for path, answer in zip(pictures, found, strict=True):
        expected = by_hand(model, path)
        assert answer.error is None
        assert dict(answer.top) == pytest.approx(expected, abs=1e-4)
        values = [value for _, value in answer.top]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
    assert len({answer.top[0][1] for answer in found}) == len(pictures)  # the images do differ


def test_a_mean_image_is_subtracted(model: AlexNet_2012, pictures: list[Path]) -> None:
    slope = np.linspace(0, 255, 12).reshape(2, 2, 3)
    norm = Normalization(NORM.mean, NORM.std, encode_mean_image(slope))
    plain, before = answers(model, pictures[:2]), model.card
    try:
        model.card = ModelCard("classic", CLASSES, norm, "noise")
        found = answers(model, pictures[:2], top_k=7)
    finally:
        model.card = before
    for path, answer, other in zip(pictures, found, plain, strict=False):
        assert dict(answer.top) == pytest.approx(by_hand(model, path, norm), abs=1e-4)
        assert dict(answer.top) != pytest.approx(dict(other.top), abs=1e-3)


def test_bad_files_are_reported_in_their_place(model: AlexNet_2012, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes(pictures[1].read_bytes()[:200])
    files = [tmp_path / "text.png", pictures[0], tmp_path / "none.png", tmp_path / "cut.jpg", pictures[1], tmp_path]
    found = answers(model, files, batch_size=2)
    assert [answer.error is None for answer in found] == [False, True, False, False, True, False]
    for index, says in ((0, "not an image"), (2, "no such file"), (3, "damaged or truncated"), (5, f"{tmp_path}/*")):
        assert found[index].top == []
        assert found[index].error is not None
        assert str(files[index]) in found[index].error
        assert says in found[index].error
        assert "\n" not in found[index].error
    assert dict(found[1].top) == pytest.approx(dict(answers(model, [pictures[0]])[0].top), abs=1e-5)


def test_only_bad_files_and_no_files(model: AlexNet_2012, tmp_path: Path) -> None:
    assert [answer.top for answer in answers(model, [tmp_path / "a", tmp_path / "b"])] == [[], []]
    assert answers(model, []) == []


def test_of_a_strip_the_middle_is_taken(model: AlexNet_2012, tmp_path: Path) -> None:
    """With its shorter side at 256, a strip could take all memory."""
    for size, expected in (((300_000, 1), (32, 1)), ((2, 900), (2, 64)), ((320, 10), (320, 10))):
        assert _shortened(Image.new("RGB", size)).size == expected
    strip = Image.new("RGB", (4000, 1), "teal")
    strip.paste("white", (0, 0, 1900, 1))
    strip.save(tmp_path / "strip.png")
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "square.png")
    found = answers(model, [tmp_path / "strip.png", tmp_path / "square.png"])
    assert dict(found[0].top) == pytest.approx(dict(found[1].top), abs=1e-5)


def test_top_k(model: AlexNet_2012, pictures: list[Path]) -> None:
    assert [len(answers(model, pictures[:1], top_k=k)[0].top) for k in (None, 1, 7)] == [5, 1, 7]
    for k in (0, 8, -1):
        with pytest.raises(ValueError, match=f"--top-k {k}: the model knows 7 classes; allowed is 1 to 7"):
            predict(model, pictures, k)  # refused at once, not when the first answer is asked for


def test_refusals(model: AlexNet_2012, pictures: list[Path]) -> None:
    with torch.device("meta"):
        bare = AlexNet_2012(3)
    with pytest.raises(ValueError, match="load_model"):
        predict(bare, pictures)
    with pytest.raises(ValueError, match="batch_size 0: allowed is 1 or more"):
        predict(model, pictures, batch_size=0)
    with pytest.raises(ValueError, match="--device tpu"):
        predict(model, pictures, device="tpu")


def test_answers_come_before_all_files_are_read(model: AlexNet_2012, pictures: list[Path]) -> None:
    taken = itertools.count()
    many = (pictures[next(taken) % 2] for _ in range(200))
    stream = predict(model, many, device="cpu", precision="fp32", batch_size=4)
    assert [answer.file for answer in itertools.islice(stream, 3)] == [str(pictures[i]) for i in (0, 1, 0)]
    assert next(taken) <= 4 + 2 * 4 + 1
    stream.close()  # type: ignore[attr-defined]


def test_ahead_works_while_the_taker_is_busy_but_not_too_far() -> None:
    done: list[int] = []
    results = ahead(lambda item: done.append(item) or -item, itertools.count(), most=5)
    assert next(results) == 0
    until = time.monotonic() + 20
    while len(done) < 6 and time.monotonic() < until:  # nobody takes anything in the meantime
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(done) == list(range(6))
    assert list(itertools.islice(results, 4)) == [-1, -2, -3, -4]
    results.close()  # type: ignore[attr-defined]


def test_ahead_keeps_the_order_and_raises_in_its_place() -> None:
    first = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            first.wait(10)
        if item == 1:
            first.set()
        if item == 3:
            raise ValueError("three")
        return item

    results = ahead(slow_first, range(9), most=2)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_a_model_that_was_being_trained_answers_without_dropout(model: AlexNet_2012, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "x.png")
    expected = list(predict(model, [tmp_path / "x.png"], device="cpu", precision="fp32"))
    assert list(predict(model.train(), [tmp_path / "x.png"], device="cpu", precision="fp32")) == expected
