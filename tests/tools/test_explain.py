"""Explain: Grad-CAM against captum, receptive fields against a gradient, neighbours against scikit-learn, the page."""

import json
import math
import re
from pathlib import Path

import html5lib
import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch import nn

from alexnet import cli, load_model, recipes, train
from alexnet.data import datasets
from alexnet.data.datasets import Dataset, Images, Pixels
from alexnet.data.normalization import Normalization
from alexnet.errors import FieldError
from alexnet.evaluate import evaluate, predict
from alexnet.model import VARIANTS, AlexNet_2012, ModelInfo
from alexnet.recipes import Runtime
from alexnet.tools import explain
from alexnet.tools.explain import draw

EVIL = ("<script>alert('x')</script>\"&", "", "שלום עולם", "long " * 60)
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
ORANGE, BLUE, WHITE = (192, 86, 47), (47, 102, 144), (255, 255, 255)


def network(variant="classic", classes=EVIL):
    torch.manual_seed(0)
    model = AlexNet_2012(len(classes), variant, "he", width_mult=1 / 16).eval().requires_grad_(False)
    norm = Normalization((0.5, 0.4, 0.6), (1 / 255,) * 3)
    model.info = ModelInfo(variant, classes, norm, "noise <b>", {"step": 1234}, width_mult=1 / 16)
    return model


def batch(model, count=3):
    size = model.variant.image_sizes[0]
    return 60 * torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def noise(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def images_of(pixels, classes: int = len(EVIL)):
    return Images(np.arange(len(pixels)) % classes, Pixels(pixels, "noise"))


def noisy(classes=EVIL):
    parts = (images_of(noise(30, seed=seed), len(classes)) for seed in (1, 2))
    return Dataset("noise", "noise", classes, *parts, "val")


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(noise(1)[0]).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


# --- the network and single images


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("layer", ["relu5", "conv2", "relu1"])
def test_grad_cam_equals_captums(variant, layer):
    model, classes = network(variant), torch.tensor([0, 3, 1])
    x = batch(model)
    expected = LayerGradCam(model, model.features.get_submodule(layer)).attribute(x, classes).detach()[:, 0]
    found = explain.grad_cam(model, x, classes, layer)
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_grad_cam_works_in_inference_mode_and_leaves_no_gradients():
    model, classes = network(), torch.tensor([0, 1, 2])
    x = batch(model)
    expected = explain.grad_cam(model, x, classes)
    assert expected.shape == (3, 13, 13)
    model.requires_grad_(True)
    with torch.inference_mode():
        assert torch.equal(explain.grad_cam(model, x.clone(), classes), expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="evaluation mode"):
        explain.grad_cam(model.train(), x, classes)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_activations_are_those_before_the_relu(variant):
    model = network(variant)
    x = batch(model, 2)
    found = explain.activations(model, x)
    assert tuple(found) == explain.convolutions(model)
    for name, maps in found.items():
        assert torch.equal(maps, LayerActivation(model, model.features.get_submodule(name)).attribute(x))
        assert maps.min() < 0


def test_a_new_fc8_changes_nothing_else():
    model = network()
    ours, its = model.state_dict(), explain.with_new_fc8(model, seed=3).state_dict()
    assert [name for name in ours if ours[name].data_ptr() != its[name].data_ptr()] == ["classifier.fc8.weight"]
    new, old = its["classifier.fc8.weight"], ours["classifier.fc8.weight"]
    assert new.std() == pytest.approx(float(old.std()), rel=0.2)
    assert torch.equal(new, explain.with_new_fc8(model, seed=3).state_dict()["classifier.fc8.weight"])


def test_correlation():
    one = torch.randn(13, 13)
    assert explain.correlation(one, -3 * one + 2) == pytest.approx(-1)
    assert explain.correlation(one, torch.ones(13, 13)) is None


def test_an_explanation_holds_what_the_single_functions_return(picture):
    model, image = network(), Image.open(picture)
    (found,) = explain.explain_images(model, [image])
    (expected,) = predict(model, [picture], device="cpu", precision="fp32")
    assert [share for _, share in found.top] == pytest.approx([share for _, share in expected.top], abs=1e-5)
    assert [model.info.classes[index] for index, _ in found.top] == [name for name, _ in expected.top]
    x = explain.inputs(model, [image])
    assert torch.equal(found.input, x[0])
    levels = torch.from_numpy(np.array(found.view)).permute(2, 0, 1)
    assert torch.allclose(x[0] + 255 * torch.tensor([0.5, 0.4, 0.6])[:, None, None], levels.float(), atol=1e-3)
    for (index, _), evidence in zip(found.top[:2], found.evidence, strict=True):
        assert torch.allclose(evidence, explain.grad_cam(model, x, torch.tensor([index]))[0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(found.maps["conv3"], explain.activations(model, x)["conv3"][0], rtol=1e-4, atol=1e-3)
    assert explain.explain_images(model, []) == []


def measured_field(model, layer, row, column):
    """Left, top, right and bottom of the input pixels that a cell has a gradient for."""
    size = model.variant.image_sizes[0]
    x = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    y = x
    for name, part in model.features.named_children():
        if isinstance(part, nn.MaxPool2d):  # whose gradient goes to one pixel of a window only
            part = nn.AvgPool2d(part.kernel_size, part.stride)
        y = part(y)
        if name == layer:
            break
    (gradient,) = torch.autograd.grad(y[0, :, row, column].sum(), x)
    touched = gradient[0].sum(0) != 0
    rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_receptive_fields_are_what_a_gradient_measures(variant):
    model = AlexNet_2012(2, variant, width_mult=1 / 16).double()
    size = model.variant.image_sizes[0]
    for _, part in model.weight_layers():
        nn.init.ones_(part.weight)
        nn.init.zeros_(part.bias)
    for layer in explain.convolutions(model):
        field, cells = explain.receptive_field(model, layer), {"conv1": 55, "conv2": 27}.get(layer, 13)
        # pool-2x2 drops the last row and column of conv1, so its last cells depend on fewer pixels
        corner = (2, cells - 1) if variant != "pool-2x2" else (2, 1)
        for row, column in ((0, 0), (cells // 2, cells // 2), corner):
            left, top, right, bottom = field.box(row, column)
            inside = (max(left, 0), max(top, 0), min(right, size), min(bottom, size))
            assert measured_field(model, layer, row, column) == inside


def test_filters_are_told_from_noise_and_from_what_they_were():
    random = torch.randn(11, 11, generator=torch.Generator().manual_seed(0))
    edge = torch.linspace(-1, 1, 11).expand(11, 11)
    filters = torch.stack([each.expand(3, 11, 11) for each in (random, edge, torch.ones(11, 11))])
    smooth = explain.filter_smoothness(filters).tolist()
    assert abs(smooth[0]) < 0.2 < 0.7 < smooth[1] <= 1
    assert smooth[2] == 0
    changes = explain.filter_changes(torch.stack([3 * filters[0], filters[1]]), filters[:2])
    assert changes.tolist() == pytest.approx([2, 0])


# --- the images of a split


def test_outputs_are_those_of_the_network():
    model = network()
    images = images_of(noise(130))
    found = explain.collect_outputs(model, images, precision="fp32")
    x = explain.inputs(model, [images.image(index) for index in (0, 129)])
    with torch.no_grad():
        hidden = model.classifier[:-1](model.features(x).flatten(1))
    expected = {"logits": model(x), "fc7": hidden}
    expected |= {name: maps.amax((2, 3)) for name, maps in explain.activations(model, x).items()}
    for name, values in expected.items():
        kept = found.peaks[name] if name in CONVOLUTIONS else getattr(found, name)
        assert len(kept) == 130
        assert torch.allclose(kept[[0, 129]], values, atol=0.02 * float(values.abs().max()))
    own = explain.outputs_of(model, x, precision="fp32")
    assert explain.nearest(own.fc7, found.fc7, 1)[1].tolist() == [[0], [129]]
    assert explain.nearest(own.pixels, found.pixels, 1)[1].tolist() == [[0], [129]]


def test_distance_in_pixels_is_in_grey_levels():
    model = network()
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ((100, 100, 100), (110, 110, 110), (100, 100, 160))]
    pixels = explain.outputs_of(model, explain.inputs(model, pictures)).pixels
    assert pixels.shape == (3, 32 * 32 * 3)
    distances, _ = explain.nearest(pixels[:1], pixels, 3)
    assert distances[0].tolist() == pytest.approx([0, 10, 60 / 3**0.5], abs=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbours_are_scikit_learns(offset):
    random = torch.Generator().manual_seed(0)
    candidates = torch.randn(300, 50, generator=random) + offset
    queries = torch.cat([torch.randn(40, 50, generator=random) + offset, candidates[[5, 280]] + 1e-3])
    distances, indices = explain.nearest(queries, candidates, 5)
    known = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(candidates.double().numpy())
    expected, order = known.kneighbors(queries.double().numpy())
    assert np.array_equal(indices.numpy(), order)
    assert np.allclose(distances.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert explain.nearest(queries, candidates[:2], 5)[1].shape == (42, 2)


def test_confident_errors():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.01, 0.99]])
    labels = torch.tensor([1, 0, 1, 1, 1])
    assert explain.confident_errors(probabilities, labels) == [0, 1, 2]
    assert explain.confident_errors(probabilities, labels, 1) == [0]
    assert explain.confident_errors(probabilities, probabilities.argmax(1)) == []


def test_calibration_by_hand():
    confidence = torch.tensor([0.55, 0.58, 0.9, 0.92, 0.98, 1.0])
    labels = torch.tensor([0, 1, 0, 0, 0, 1])
    found = explain.calibration(torch.stack([confidence, 1 - confidence], 1), labels, bins=10)
    assert found.counts == [2, 1, 3]  # (0.5, 0.6], (0.8, 0.9], (0.9, 1]
    assert found.confidence == pytest.approx([0.565, 0.9, (0.92 + 0.98 + 1) / 3], abs=1e-6)
    assert found.accuracy == pytest.approx([0.5, 1, 2 / 3])
    error = (2 * 0.065 + 1 * 0.1 + 3 * abs(2 / 3 - 2.9 / 3)) / 6
    assert found.expected_error == pytest.approx(error, abs=1e-6)
    perfect = explain.calibration((torch.eye(4) * 100).softmax(1), torch.arange(4))
    assert (perfect.counts, perfect.accuracy, perfect.expected_error) == ([4], [1.0], 0.0)


def test_patches_are_where_the_bright_spots_are():
    model = network()
    model.features.conv1.weight[5] = 0.01  # responds to brightness
    pixels = np.full((12, 224, 224, 3), 128, np.uint8)
    for index, bright in {3: 250, 7: 230, 10: 210}.items():
        place = 40 + 10 * index
        pixels[index, place : place + 9, 60:69] = bright
    images = images_of(pixels)
    peaks = explain.collect_outputs(model, images, precision="fp32").peaks
    patches = explain.strongest_patches(model, images, peaks["conv1"], "conv1", 5, count=3)
    assert [patch.index for patch in patches] == [3, 7, 10]
    for patch in patches:
        assert patch.value == pytest.approx(float(peaks["conv1"][patch.index, 5]), rel=1e-3)
        left, top, right, bottom = patch.box
        x, y = (64.5 * 256 / 224 - 16, (44.5 + 10 * patch.index) * 256 / 224 - 16)  # the spot in the network's view
        assert left <= x <= right
        assert top <= y <= bottom


def test_the_salient_channel_stands_out_in_a_few_images():
    peaks = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    peaks[:9, 4] += 30
    peaks[:, 2] *= 100
    peaks[:, 5] = 7
    assert explain.salient_channel(peaks) == 4
    assert explain.salient_channel(torch.zeros(3, 2)) == 0


# --- pictures


def test_colours_of_maps():
    found = draw.map_image(torch.tensor([[2.0, -2.0], [0.0, 1.0]]), 2.0)
    assert [found.getpixel(at) for at in ((0, 0), (1, 0), (0, 1))] == [ORANGE, BLUE, WHITE]
    assert found.getpixel((1, 1)) == tuple(round((value + 255) / 2) for value in ORANGE)
    assert draw.map_image(torch.zeros(2, 2), 0.0).getpixel((0, 0)) == WHITE


def test_evidence_is_drawn_at_the_centre_of_each_receptive_field():
    """13 cells of 16 pixels on 224 pixels leave 8 pixels free on each side."""
    values, field = torch.zeros(13, 13), explain.ReceptiveField(163, 16, -66)
    values[0, 12], values[6, 6] = 1.0, -0.5
    found = draw.evidence_image(Image.new("RGB", (224, 224), "black"), values, field).convert("RGB")
    pixels = np.asarray(found).astype(int)
    red, blue = (pixels[..., 0] - pixels[..., 2]) > 30, (pixels[..., 2] - pixels[..., 0]) > 30
    assert [(int(each.min()), int(each.max())) for each in np.nonzero(red)] == [(8, 23), (200, 215)]
    assert [(int(each.min()), int(each.max())) for each in np.nonzero(blue)] == [(104, 119), (104, 119)]


def test_a_patch_is_transparent_outside_the_image():
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[100:111, 40:51] = (10, 200, 30)
    assert draw.patch_image(Image.fromarray(pixels), (40, 100, 51, 111)).getcolors() == [(121, (10, 200, 30, 255))]
    alpha = np.asarray(draw.patch_image(Image.fromarray(pixels), (-5, 219, 6, 230)))[..., 3]
    assert (alpha[:5, 5:] == 255).all()
    assert alpha.sum() == 255 * 30


# --- the page


def parsed(path):
    """The page, if a validating parser finds no error in it and it runs and loads nothing."""
    text = path.read_text(encoding="utf-8")
    outside = re.sub(r'="data:image/png;base64,[A-Za-z0-9+/=]*"', '="data:"', text)
    assert not re.search(r"<script|<link|@import|url\((?!#)|https?:|src=(?!\"data:)", outside)
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def words(path):
    return " ".join("".join(parsed(path).find("body").itertext()).split())


@pytest.fixture
def page(tmp_path):
    """What `explain` returns, and the text of its page, tmp_path/page.html."""

    def make(model, files=(), dataset=None, **options):
        out = tmp_path / "page.html"
        return explain.explain(model, files, dataset, out=out, **{"title": "x"} | options), words(out)

    return make


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    recipe = recipes.quickstart(val_every=100, width_mult=1 / 16)
    train.run(recipe, out=folder, runtime=Runtime(max_steps=2, device="cpu", tracker="none", quiet=True))
    return folder


def test_a_run_is_explained_with_its_own_data(run, capsys):
    assert cli.main(["explain", str(run), "--json", "--neighbours", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["out", "layers", "images", "validation"]
    assert found["out"] == str(run / "explain.html")
    assert [each["name"] for each in found["layers"]] == list(CONVOLUTIONS)
    assert [each["maps"] for each in found["layers"]] == [6, 16, 24, 24, 16]
    fields = [each["receptive_field"] for each in found["layers"]]
    assert [field["size"] for field in fields] == [11, 51, 99, 131, 163]
    assert fields[2] == {"size": 99, "stride": 16, "start": -34}
    assert sorted(image["truth"] for image in found["images"]) == list("0123456789")
    for image in found["images"]:
        assert list(image) == ["file", "truth", "top", "cam_peak", "neighbours", "error"]
        assert len(image["top"]) == 5
        for near in (image["neighbours"]["fc7"], image["neighbours"]["pixels"]):
            distances = [each["distance"] for each in near]
            assert distances == sorted(distances)
            assert [list(each) for each in near] == [["file", "class", "distance"]] * 6
    expected, seen = evaluate(load_model(run), datasets.load("digits"), device="cpu"), found["validation"]
    for name in ("count", "top1", "confusion"):
        assert seen[name] == expected[name]
    assert 0 <= seen["expected_error"] <= 100
    text = words(run / "explain.html")
    for part in ("359 images of digits, split val", "how much training changed", "before training", "200 of 1,438"):
        assert part in text
    filters = [each.get("alt") for each in parsed(run / "explain.html").iter("img") if "filters" in each.get("alt", "")]
    assert filters == ["6 filters after training", "6 filters before training"]


def test_names_of_every_kind_break_nothing(tmp_path, page):
    folder = tmp_path / "a <i> & \u05e9"
    folder.mkdir()
    files = [folder / name for name in ("<b>.png", "\u05e9\u05dc.png", "l" * 240 + ".png", "\udcff.png")]
    for file in files:
        Image.fromarray(noise(1)[0]).save(file)
    found, text = page(network(), files, noisy(), title="<u>" + "t" * 300)
    elements = list(parsed(tmp_path / "page.html").iter())
    assert not {"script", "u"} & {each.tag for each in elements}
    assert EVIL[0] in {each.text for each in elements if each.tag == "bdi"}
    assert "(no name)" in text
    assert [image["error"] for image in found["images"]] == [None] * 4
    assert json.loads(json.dumps(found))["images"][0]["file"] == str(files[0])


def test_an_unreadable_image_is_a_line_and_the_others_are_explained(run, tmp_path, picture, capsys):
    bad, out = tmp_path / "bad.png", tmp_path / "page.html"
    bad.write_bytes(b"no image")
    command = ["explain", str(run), str(bad), str(picture), "--neighbours", "0", "--out", str(out), "--json"]
    assert cli.main(command) == 1
    shown = capsys.readouterr()
    first, second = json.loads(shown.out)["images"]
    assert (first["file"], first["top"], first["cam_peak"], first["neighbours"]) == (str(bad), [], None, None)
    assert str(bad) in first["error"]
    assert first["error"] in shown.err
    assert first["error"] in words(out)
    assert (second["file"], second["error"], second["truth"]) == (str(picture), None, None)
    model = load_model(run)
    x = explain.inputs(model, [Image.open(picture)])
    assert second["cam_peak"] == pytest.approx(float(explain.grad_cam(model, x, model(x).argmax(1)).max()), rel=1e-4)


def test_no_page_without_an_image_that_can_be_read(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("kept")
    with pytest.raises(ValueError, match=r"a\.png.*; .*b\.png"):
        explain.explain(network(), [tmp_path / "a.png", tmp_path / "b.png"], out=page, title="x")
    assert page.read_text() == "kept"


def test_the_choice_of_images_is_fixed(page, monkeypatch):
    monkeypatch.setattr("alexnet.tools.explain.page.VALIDATION", 20)
    data = noisy()
    chosen = explain.choose_examples(data)
    labels = data.val.labels[chosen].tolist()
    assert labels == sorted(labels)
    assert max(np.bincount(labels)) - min(np.bincount(labels)) <= 1
    found, text = page(network(), [], data, neighbours=12)
    assert [image["file"] for image in found["images"]] == [data.val.name(index) for index in chosen]
    assert found["validation"]["count"] == 20
    assert "20 of 30 images of noise" in text
    assert "12 of 30 training images" in text


def test_without_run_and_data_the_page_says_what_is_missing(page, picture, run):
    found, text = page(network("paper"), [picture], note="nobody named any")
    assert found["validation"] is None
    for part in ("nobody named any", "before training are not shown", "smoothness", "Tower 1, after", "Tower 2, after"):
        assert part in text
    assert "another network" in page(network(), [picture], run=run)[1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-torch.rand(13, 13) - 0.5, "No evidence for this class"),
        (torch.linspace(-1, 1, 169).view(13, 13), "nearly the same picture"),
    ],
)
def test_the_page_warns_of_evidence_that_is_none(page, picture, monkeypatch, value, says):
    assert says not in page(network(), [picture])[1]
    monkeypatch.setattr(explain.analysis, "grad_cam", lambda model, x, classes: value.expand(len(x), -1, -1))
    assert says in page(network(), [picture])[1]


def test_another_channel_and_a_network_without_conv4(page, picture):
    found, text = page(network("no-conv4"), [picture], noisy(), layer="conv3", channel=7, neighbours=0)
    assert [each["name"] for each in found["layers"]] == ["conv1", "conv2", "conv3", "conv5"]
    assert found["layers"][2]["channel"] == 7
    assert "conv3, channel 7" in text


def test_the_fullest_page_stays_under_ten_megabytes(tmp_path):
    """Noise, which no format compresses, in as many images as are allowed."""
    files = [tmp_path / f"{index}.png" for index in range(12)]
    for file, pixels in zip(files, noise(12, 300), strict=True):
        Image.fromarray(pixels).save(file)
    explain.explain(network(), files, noisy(), out=tmp_path / "page.html", title="x")
    assert 2e6 < (tmp_path / "page.html").stat().st_size < 10e6


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("neighbours", {"neighbours": -1}),
        ("images", {"files": ["a.png"] * 13}),
        ("data", {"dataset": noisy(("a", "b"))}),
        ("out", {"out": Path("no/x.html")}),
        ("out", {"out": Path("x.ckpt")}),
        ("layer", {"layer": "conv6", "channel": 1}),
        ("layer", {"channel": 1}),
        ("channel", {"layer": "conv3", "channel": 24}),
        ("channel", {"layer": "conv3"}),
    ],
)
def test_refusals(tmp_path, field, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FieldError) as error:
        explain.explain(network(), **{"files": ["a.png"], "out": Path("x.html"), "title": "x"} | options)
    assert error.value.field == field
    with pytest.raises(ValueError, match="name image files"):
        explain.explain(network(), out=Path("x.html"), title="x")
    assert not list(tmp_path.iterdir())


def test_a_network_with_damaged_weights(tmp_path, picture):
    damaged = network()
    damaged.classifier.fc8.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        explain.explain(damaged, [picture], out=tmp_path / "x.html", title="x")
