"""A model on validation images: figures against a computation by hand, views against torchvision's."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from alexnet import flags
from alexnet.data.datasets import Dataset, Images
from alexnet.data.loaders import eval_batches
from alexnet.data.normalization import Normalization
from alexnet.data.stores import Files, Pixels
from alexnet.data.transforms import EvalTransform
from alexnet.model import AlexNet_2012
from alexnet.recipes import VIEWS
from alexnet.run.metrics import ManyViews
from alexnet.use.evaluate import check_classes, evaluate, format_evaluation
from alexnet.use.predict import predict
from alexnet.weights.card import ModelCard

CLASSES = ("ant", "bee", "cow")
NORM = Normalization((0.5, 0.4, 0.6), (0.2, 0.3, 0.25))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> AlexNet_2012:
    torch.manual_seed(0)
    model = AlexNet_2012(3, init="he").eval().requires_grad_(False)
    model.card = ModelCard("classic", CLASSES, NORM, "noise")
    return model


def small(count: int, side: int = 32) -> Images:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (count, side, side, 3), np.uint8)
    return Images(np.arange(count) % 3, Pixels(pixels, "noise"))


@pytest.fixture
def mixed(tmp_path: Path) -> Images:
    """Files of different sizes, which the resident path does not take."""
    random = np.random.default_rng(2)
    paths = []
    for number, (height, width) in enumerate([(40, 60), (300, 280), (33, 33), (90, 31), (256, 256)]):
        image = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1])
    return Images(np.array([2, 0, 1, 1, 2]), Files(paths))


def source_of(images: Images, classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset("spec", "name", classes, images, images, "test")


@pytest.mark.parametrize("size", [224, 256])
def test_batches_are_what_the_evaluation_transform_gives(mixed: Images, size: int) -> None:
    transform = EvalTransform(size, NORM)
    for images, most in ((mixed, 1e-5), (small(150), 2 / 255 / 0.2 + 1e-3), (small(3, side=120), 1e-5)):
        batches = list(eval_batches(images, NORM, size, CPU))
        expected = torch.stack([transform(images.image(index)) for index in range(len(images))])
        assert [len(x) for x, _ in batches] == ([128, 22] if len(images) == 150 else [len(images)])
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
        assert torch.cat([x for x, _ in batches]).sub(expected).abs().max() <= most
        assert torch.cat([y for _, y in batches]).tolist() == images.labels.tolist()


def test_figures_are_those_of_a_computation_by_hand(model: AlexNet_2012, mixed: Images) -> None:
    found = evaluate(model, source_of(mixed), device="cpu", precision="fp32")
    transform = EvalTransform(224, NORM)
    loss, confusion = 0.0, [[0] * 3 for _ in range(3)]
    for index, label in enumerate(mixed.labels):
        with torch.inference_mode():
            logits = model(transform(mixed.image(index))[None])[0]
        loss -= math.log(logits.softmax(0)[label]) / 5
        confusion[label][int(logits.argmax())] += 1
    assert not model.training
    assert found["loss"] == pytest.approx(loss, rel=1e-3)
    assert found["confusion"] == confusion
    assert found["top1"] == pytest.approx(20 * sum(confusion[i][i] for i in range(3)))
    assert found["top5"] == 100
    assert (found["count"], found["data"], found["split"]) == (5, "name", "test")
    totals = {"ant": 1, "bee": 2, "cow": 2}
    for i, name in enumerate(CLASSES):
        assert found["per_class"][name] == pytest.approx(100 * confusion[i][i] / totals[name])
    assert list(found) == ["data", "split", "count", "loss", "top1", "top5", "per_class", "confusion"]


def test_ten_crop_is_the_mean_softmax_over_torchvisions_ten_crops() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(9), nn.Flatten(), nn.Linear(243, 6)).requires_grad_(False)
    images = 3 * torch.randn(4, 3, 256, 256)
    labels = torch.tensor([0, 1, 2, 3])
    for size in (224, 200):  # of 227, torchvision places the mirrored centre one pixel beside the mirror of the centre
        views = v2.TenCrop(size)(images)
        expected = torch.stack([net(view).softmax(1) for view in views]).mean(0)
        got = ManyViews(net, size)(images)
        assert torch.allclose(got.softmax(1), expected, atol=1e-6)
        assert F.cross_entropy(got, labels).item() == pytest.approx(F.nll_loss(expected.log(), labels).item())


def test_flip_is_the_mean_softmax_over_image_and_mirror(model: AlexNet_2012) -> None:
    images = small(5)
    x, labels = next(eval_batches(images, NORM, 224, CPU))
    with torch.inference_mode():
        expected = (model(x).softmax(1) + model(x.flip(-1)).softmax(1)) / 2
    found = evaluate(model, source_of(images), "flip", device="cpu", precision="fp32")
    assert found["loss"] == pytest.approx(F.nll_loss(expected.log(), labels).item(), rel=1e-4)
    digits = dataclasses.replace(source_of(images), flip=False)  # where a mirrored image is of another class
    unmirrored, center = (
        evaluate(model, digits, views, device="cpu", precision="fp32") for views in ("flip", "center")
    )
    assert unmirrored.pop("loss") == pytest.approx(center.pop("loss"), rel=1e-6)
    assert unmirrored == center


def test_ten_crop_scores(model: AlexNet_2012, mixed: Images) -> None:
    found = evaluate(model, source_of(mixed), "ten-crop", device="cpu", precision="fp32")
    total = 0.0
    for index, label in enumerate(mixed.labels):
        views = v2.TenCrop(224)(EvalTransform(256, NORM)(mixed.image(index)))
        with torch.inference_mode():
            total -= math.log(model(torch.stack(views)).softmax(1).mean(0)[label])
    assert found["loss"] == pytest.approx(total / 5, rel=1e-3)
    assert found["loss"] != evaluate(model, source_of(mixed), device="cpu", precision="fp32")["loss"]


def test_reduced_precision_is_for_the_network_alone(model: AlexNet_2012) -> None:
    """Autocast around the making of the batches would round the images too."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        evaluate(model, source_of(small(4)), device="cpu", precision="bf16")
    finally:
        handle.remove()
    exact = next(eval_batches(small(4), NORM, 224, CPU))[0]
    assert torch.equal(seen[0], exact)


def test_a_class_without_images_has_no_share(model: AlexNet_2012) -> None:
    found = evaluate(model, source_of(small(4).subset([0, 2, 3])), device="cpu", precision="fp32")
    assert found["per_class"]["bee"] is None
    assert "bee" in format_evaluation(found, "center")


def test_a_damaged_image_is_named(model: AlexNet_2012, mixed: Images) -> None:
    bad = Path(mixed.name(3))
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^\S*3\.png: damaged or truncated"):
        evaluate(model, source_of(mixed), device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (("ant", "bee", "fly"), "only the data has fly; only the model has cow"),
        (("ant", "bee"), "only the model has cow"),
        (("bee", "ant", "cow"), "the same in another order"),
        ((*CLASSES, "a", "b", "c", "d", "e", "f", "g"), "only the data has a, b, c, d, e and 2 more"),
    ],
)
def test_other_classes_are_refused_by_name(classes: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=f"^--data spec: its classes are not those of the model: .*{says}$"):
        check_classes(source_of(small(3), classes), CLASSES)
    check_classes(source_of(small(3)), list(CLASSES))


def test_refusals(model: AlexNet_2012) -> None:
    with pytest.raises(ValueError, match="--views five: allowed is one of center, flip, ten-crop"):
        evaluate(model, source_of(small(3)), "five")
    assert VIEWS == flags.VIEWS


def test_the_table_fits_a_terminal_and_says_what_was_mistaken() -> None:
    matrix = [[30 if i == j else 6 if j == (i + 1) % 10 else 0 for j in range(10)] for i in range(10)]
    found = {
        "data": "digits", "split": "val", "count": 360, "loss": 0.5, "top1": 83.333, "top5": 99.0,
        "per_class": dict.fromkeys("0123456789", 83.333), "confusion": matrix,
    }  # fmt: skip
    text = format_evaluation(found, "center")
    assert "360 images" in text
    assert "top1 83.33%" in text
    assert "1 (16.7%)" in text
    assert max(map(len, text.splitlines())) <= 100
    many = [str(i) for i in range(30)]
    big = found | {"per_class": dict.fromkeys(many, 0.0), "confusion": [[1] * 30] * 30}
    assert "confusion" not in format_evaluation(big, "center")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_computes_in_the_precision_asked_for(
    model: AlexNet_2012, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    seen = []
    handle = model.register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    try:
        evaluate(model, source_of(small(3)), device="cpu", precision=precision)
        list(predict(model, [tmp_path / "x.png"], device="cpu", precision=precision))
    finally:
        handle.remove()
    assert seen == [dtype, dtype]
