"""A trained network on a data set and on image files: compared with computations by hand and with torchvision."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from alexnet.data import datasets
from alexnet.data.images import open_image
from alexnet.data.normalization import Normalization, central_pixels, encode_mean_image, normalized
from alexnet.errors import FieldError
from alexnet.evaluate import Metrics, TestTimeAugmentation, evaluate, format_evaluation, measure, predict
from alexnet.model import AlexNet_2012, ModelInfo

CLASSES = ("ant", "bee", "cow")
NORM = Normalization((0.5, 0.4, 0.6), (0.2, 0.3, 0.25))
CPU = torch.device("cpu")
SIZES = [(40, 60), (300, 280), (33, 33), (90, 31), (256, 256)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = AlexNet_2012(3, init="he", width_mult=1 / 16).eval().requires_grad_(False)
    model.info = ModelInfo("classic", CLASSES, NORM, "noise", width_mult=1 / 16)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Validation images of different sizes, which the resident path does not take."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(2)
    for split in ("train", "val"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        image = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))
        image.save(folder / "val" / CLASSES[number % 3] / f"{number}.png")
        image.save(folder / "train" / CLASSES[number % 3] / f"{number}.png")
    return folder


@pytest.fixture
def dataset(folder):
    return datasets.load(str(folder))


def inputs(dataset, size=224, norm=NORM):
    pixels = [central_pixels(dataset.val.image(i), size) for i in range(len(dataset.val))]
    return normalized(pixels, norm, CPU)


# --- metrics and test-time augmentation


def test_metrics_by_hand():
    metrics = Metrics(7, CPU)
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5, 6], [9, 1, 2, 3, 4, 5, 6]])
    metrics.add(logits, torch.tensor([0, 1]))
    metrics.add(logits[:1], torch.tensor([2]))
    found = metrics.result(expected=3)
    assert (found["top1"], found["top5"], found["count"]) == (100 / 3, 100 / 3, 3)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits[[0, 0, 0]], torch.tensor([0, 1, 2]))))
    assert [sum(row) for row in found["confusion"]] == [1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(RuntimeError, match="3 images"):
        metrics.result(expected=4)


def test_measuring_uses_evaluation_mode_and_restores_the_mode():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    batch = (torch.ones(2, 4), torch.tensor([0, 1]))
    first, second = Metrics(2, CPU), Metrics(2, CPU)
    for metrics in (first, second):
        assert measure(net, [batch, None], metrics)
    assert first.loss == second.loss
    assert net.training
    assert not measure(net, [batch], Metrics(2, CPU), interrupted=lambda: True)


def test_ten_crop_is_the_mean_softmax_over_torchvisions_ten_crops():
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(9), nn.Flatten(), nn.Linear(243, 6)).requires_grad_(False)
    images, labels = 3 * torch.randn(4, 3, 256, 256), torch.tensor([0, 1, 2, 3])
    for size in (224, 200):  # at 227, torchvision's mirrored centre is one pixel beside the mirror image of the centre
        expected = torch.stack([net(view).softmax(1) for view in v2.TenCrop(size)(images)]).mean(0)
        found = TestTimeAugmentation(net, size)(images)
        assert torch.allclose(found.softmax(1), expected, atol=1e-6)
        assert F.cross_entropy(found, labels).item() == pytest.approx(F.nll_loss(expected.log(), labels).item())
    expected = torch.stack([net(view).softmax(1) for view in v2.FiveCrop(227)(images)]).mean(0)
    found = TestTimeAugmentation(net, 227, mirror=False)(images)
    assert torch.allclose(found.softmax(1), expected, atol=1e-6)
    small = images[..., :224, :224]
    expected = (net(small).softmax(1) + net(small.flip(-1)).softmax(1)) / 2
    assert torch.allclose(TestTimeAugmentation(net, 224)(small).softmax(1), expected, atol=1e-6)
    unmirrored = TestTimeAugmentation(net, 224, mirror=False)(small)
    assert torch.allclose(unmirrored.softmax(1), net(small).softmax(1), atol=1e-6)


# --- evaluate


def test_evaluate_agrees_with_a_computation_by_hand(model, dataset):
    found = evaluate(model.train(), dataset, device="cpu", precision="fp32")
    assert model.training
    logits, labels = model.eval()(inputs(dataset)), torch.from_numpy(dataset.val.labels)
    confusion = torch.zeros(3, 3, dtype=torch.int64).index_put_((labels, logits.argmax(1)), torch.tensor(1), True)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert found["confusion"] == confusion.tolist()
    assert found["top1"] == pytest.approx(20 * int(confusion.trace()))
    assert (found["count"], found["split"], found["top5"]) == (5, "val", 100)
    for i, name in enumerate(CLASSES):
        assert found["per_class"][name] == pytest.approx(100 * confusion[i, i].item() / confusion[i].sum().item())
    assert list(found) == ["data", "split", "count", "loss", "top1", "top5", "per_class", "confusion"]


def test_images_are_warped_if_the_network_was_trained_so(model, dataset):
    model.info = replace(model.info, normalization=replace(NORM, resize="warp"))
    files = [dataset.val.name(i) for i in range(len(dataset.val))]
    logits = model(normalized([central_pixels(open_image(file), 224, "warp") for file in files], NORM, CPU))
    for found, expected in zip(predict(model, files, device="cpu", precision="fp32"), logits.softmax(1), strict=True):
        assert [dict(found.top)[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-4)
    loss = F.cross_entropy(logits, torch.from_numpy(dataset.val.labels)).item()
    assert evaluate(model, dataset, device="cpu", precision="fp32")["loss"] == pytest.approx(loss, rel=1e-4)


def test_evaluate_by_ten_crops_and_by_mirror_images(model, dataset):
    labels = torch.from_numpy(dataset.val.labels)
    views = torch.stack(v2.TenCrop(224)(inputs(dataset, 256)))  # [10, N, 3, 224, 224]
    center = inputs(dataset)
    for tta, crops in (("ten-crop", views), ("flip", torch.stack([center, center.flip(-1)]))):
        mean = torch.stack([model(crop).softmax(1) for crop in crops]).mean(0)
        found = evaluate(model, dataset, tta, device="cpu", precision="fp32")
        assert found["loss"] == pytest.approx(F.nll_loss(mean.log(), labels).item(), rel=1e-4)


def test_data_whose_mirror_images_have_no_class_are_not_mirrored(model, dataset):
    plain = replace(dataset, flip=False)
    losses = [evaluate(model, plain, tta, device="cpu", precision="fp32")["loss"] for tta in ("center", "flip")]
    assert losses[0] == pytest.approx(losses[1])


def test_a_class_without_images_has_no_accuracy(model, dataset):
    found = evaluate(model, replace(dataset, val=dataset.val.subset([0])), device="cpu")
    assert [share is None for share in found["per_class"].values()] == [False, True, True]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_the_network_alone(model, dataset, folder, precision, dtype):
    seen = []
    model.register_forward_hook(lambda _, images, logits: seen.append((images[0].dtype, logits.dtype)))
    evaluate(model, dataset, device="cpu", precision=precision)
    list(predict(model, [dataset.val.name(0)], device="cpu", precision=precision))
    assert seen == [(torch.float32, dtype)] * 2


@pytest.mark.parametrize("classes", [("ant", "bee", "fly"), ("ant", "bee"), ("bee", "ant", "cow"), (*CLASSES, "x")])
def test_other_classes_are_refused(dataset, classes):
    model = AlexNet_2012(len(classes), width_mult=1 / 16)
    model.info = ModelInfo("classic", classes, NORM, "noise", width_mult=1 / 16)
    with pytest.raises(FieldError, match=r"^data must ") as error:
        evaluate(model, dataset)
    assert all(name in str(error.value) for name in set(classes) ^ set(CLASSES))


def test_refusals(model, dataset):
    for options, field in (({"tta": "five"}, "tta"), ({"split": "test"}, "split"), ({"device": "tpu"}, "device")):
        with pytest.raises(FieldError, match=f"^{field} must "):
            evaluate(model, dataset, **options)
    for top_k in (0, 4, -1):
        with pytest.raises(FieldError, match=r"^top_k must "):
            predict(model, [], top_k)  # at once, not when the first result is asked for
    with pytest.raises(FieldError, match=r"^batch_size must "):
        predict(model, [], batch_size=0)
    model.info = None
    with pytest.raises(ValueError, match="ModelInfo"):
        predict(model, [])


def test_the_table_fits_a_terminal():
    matrix = [[30 if i == j else 6 if j == (i + 1) % 10 else 0 for j in range(10)] for i in range(10)]
    found = {
        "data": "digits", "split": "val", "count": 360, "loss": 0.5, "top1": 83.333, "top5": 99.0,
        "per_class": dict.fromkeys("012345678", 83.333) | {"9": None}, "confusion": matrix,
    }  # fmt: skip
    text = format_evaluation(found, "center")
    assert "top1 83.33%" in text
    assert "1 (16.7%)" in text
    assert max(map(len, text.splitlines())) <= 100
    large = found | {"per_class": dict.fromkeys(map(str, range(30)), 0.0), "confusion": [[1] * 30] * 30}
    assert "confusion matrix" not in format_evaluation(large, "center")


# --- predict


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of different shapes, modes and formats."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for height, width, mode, suffix in (
        (32, 32, "RGB", "png"), (80, 50, "RGB", "jpg"), (50, 90, "L", "png"), (1, 1, "RGB", "png"),
        (300, 260, "RGB", "jpg"), (40, 40, "RGBA", "png"), (64, 64, "RGB", "bmp"),
    ):  # fmt: skip
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height))
        paths.append(folder / f"picture {len(paths)}.{suffix}")
        coarse.convert(mode).save(paths[-1])
    return paths


@pytest.mark.parametrize("mean_image", ["", encode_mean_image(np.linspace(0, 255, 12).reshape(2, 2, 3))])
def test_batches_give_what_single_images_give_in_order(model, pictures, mean_image):
    norm = Normalization(NORM.mean, NORM.std, mean_image)
    model.info = ModelInfo("classic", CLASSES, norm, "noise", width_mult=1 / 16)
    found = list(predict(model.train(), pictures, device="cpu", precision="fp32", batch_size=3))
    assert [prediction.file for prediction in found] == [str(path) for path in pictures]
    for path, prediction in zip(pictures, found, strict=True):
        images = normalized([central_pixels(open_image(path), 224)], norm, CPU)
        expected = model.eval()(images).softmax(1)[0].tolist()
        assert dict(prediction.top) == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-4)
        values = [value for _, value in prediction.top]
        assert values == sorted(values, reverse=True)
    assert len({prediction.top[0][1] for prediction in found}) == len(pictures)  # the images differ
    assert [len(p.top) for p in predict(model, pictures[:2], 1, device="cpu")] == [1, 1]


def test_bad_files_are_reported_in_their_place(model, pictures, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes(pictures[1].read_bytes()[:200])
    files = [tmp_path / "text.png", pictures[0], tmp_path / "none.png", tmp_path / "cut.jpg", pictures[1], tmp_path]
    found = list(predict(model, files, device="cpu", batch_size=2))
    assert [prediction.error is None for prediction in found] == [False, True, False, False, True, False]
    for index in (0, 2, 3, 5):
        error = found[index].error
        assert found[index].top == []
        assert error is not None
        assert str(files[index]) in error
        assert "\n" not in error
    assert [p.top for p in predict(model, files[:1], device="cpu")] == [[]]
    assert list(predict(model, [], device="cpu")) == []


def test_a_strip_does_not_take_all_memory(model, tmp_path):
    """With its shorter side at 256, it would have a hundred million pixels; its middle is used."""
    strip = Image.new("RGB", (400_000, 1), "teal")
    strip.paste("white", (0, 0, 190_000, 1))
    strip.save(tmp_path / "strip.png")
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "square.png")
    found = list(predict(model, [tmp_path / "strip.png", tmp_path / "square.png"], device="cpu", precision="fp32"))
    assert dict(found[0].top) == pytest.approx(dict(found[1].top), abs=1e-5)


def test_results_come_before_all_files_are_read(model, pictures):
    taken = itertools.count()

    def files():
        for _ in range(200):
            yield pictures[next(taken) % 2]

    results = predict(model, files(), device="cpu", batch_size=4)
    assert [p.file for p in itertools.islice(results, 3)] == [str(pictures[i]) for i in (0, 1, 0)]
    assert next(taken) <= 4 + 2 * 4 + 1
    results.close()
