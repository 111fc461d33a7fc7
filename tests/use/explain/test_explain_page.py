"""The command `explain` and its page: one file that holds what was found, whatever the names are."""

import dataclasses
import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import cli, flags, recipes, train
from alexnet.data import datasets
from alexnet.data.normalization import Normalization
from alexnet.data.splits import Dataset, Images
from alexnet.data.stores import Files, Pixels
from alexnet.model import AlexNet_2012
from alexnet.use.explain import convolutions, grad_cam, images, inputs, page
from alexnet.use.explain.images import from_data
from alexnet.use.explain.page import MOST, explain, format_explanation
from alexnet.use.predict import predict
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("tiny_network")

EVIL = ("<script>alert('x')</script>\"&", "", "שלום עולם", "long " * 60)


def network(variant: str = "classic", classes: tuple[str, ...] = EVIL) -> AlexNet_2012:
    torch.manual_seed(0)
    model = AlexNet_2012(len(classes), variant, "he").eval().requires_grad_(False)
    norm = Normalization((0.5, 0.4, 0.6), (1 / 255,) * 3)
    model.card = ModelCard(variant, classes, norm, "noise <b>", {"step": 1234})
    return model


def noise(count: int, side: int = 32, seed: int = 0, classes: int = len(EVIL)) -> Images:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    return Images(np.arange(count) % classes, Pixels(pixels, "noise"))


def noisy(classes: tuple[str, ...] = EVIL, side: int = 32) -> Dataset:
    parts = (noise(30, side, seed, len(classes)) for seed in (1, 2))
    return Dataset("noise", "noise", classes, *parts, "val")


def parsed(path: Path) -> Element:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(path.read_text(encoding="utf-8"))


def words(tree: Element) -> str:
    return " ".join("".join(tree.find("body").itertext()).split())


def from_elsewhere(page: str) -> list[str]:
    """Whatever the page would fetch or run."""
    inside = re.sub(r'="data:image/png;base64,[A-Za-z0-9+/=]*"', '="data:"', page)
    return re.findall(r"<script|<link|@import|url\((?!#)|https?:|src=(?!\"data:)", inside)


def test_names_of_every_kind_break_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a <i> & \u05e9"
    folder.mkdir()
    files = [folder / name for name in ("<b>.png", "\u05e9\u05dc.png", "l" * 240 + ".png", "\udcff.png")]
    for file in files:
        Image.fromarray(noise(1).store.array[0]).save(file)
    out = tmp_path / "page.html"
    found = explain(network(), files, noisy(), out=out, title="<u>" + "t" * 300)
    tree = parsed(out)
    assert not from_elsewhere(out.read_text(encoding="utf-8"))
    assert not [each for each in tree.iter() if each.tag in ("script", "u")]
    assert EVIL[0] in {each.text for each in tree.iter("bdi")}
    assert "(no name)" in words(tree)
    assert [image["error"] for image in found["images"]] == [None] * 4
    assert json.loads(json.dumps(found))["images"][0]["file"] == str(files[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_network: None) -> Path:
    """A run of digits, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train.run(recipes.quickstart(max_steps=2, val_every=100, device="cpu"), out=folder, quiet=True)
    return folder


def document(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_run_is_explained_by_its_own_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", str(run), "--json"]) == 0
    found = document(capsys)
    assert list(found) == ["out", "layers", "images", "validation"]
    assert found["out"] == str(run / "explain.html")
    assert [each["name"] for each in found["layers"]] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert [each["maps"] for each in found["layers"]] == [8, 16, 12, 12, 8]
    assert found["layers"][2]["receptive_field"] == {"size": 99, "stride": 16, "start": -34}
    assert sorted(image["truth"] for image in found["images"]) == list("0123456789")
    for image in found["images"]:
        assert list(image) == ["file", "truth", "top", "cam_peak", "neighbours", "error"]
        assert len(image["top"]) == 5
        for near in (image["neighbours"]["fc7"], image["neighbours"]["pixels"]):
            distances = [one["distance"] for one in near]
            assert distances == sorted(distances)
            assert len(near) == 6
    assert found["validation"]["count"] == 359
    assert 0 <= found["validation"]["expected_error"] <= 100
    tree = parsed(Path(found["out"]))
    told = words(tree)
    assert "359 images, split val of digits" in told
    assert "after training" in told
    assert "before training, from the same seed" in told
    assert "1,438 training images" in told
    assert Path(found["out"]).stat().st_size < 10e6
    assert "explain.html" in format_explanation(found)


def test_the_choice_of_images_is_fixed_and_of_every_class() -> None:
    dataset = noisy()
    chosen = from_data(dataset)
    assert [subject.file for subject in chosen] == [subject.file for subject in from_data(dataset)]
    assert [subject.truth for subject in chosen] == sorted(subject.truth for subject in chosen)
    counts = np.bincount([subject.truth for subject in chosen])
    assert counts.sum() == 10
    assert counts.max() - counts.min() <= 1


def test_an_unreadable_image_is_a_line_and_the_others_are_explained(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, out = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "page.html"
    Image.fromarray(noise(1).store.array[0]).save(good)
    bad.write_bytes(b"no image")
    words_of = ["explain", str(run), "--neighbours", "0", str(bad), "--out", str(out), "--json", str(good)]
    assert cli.main(words_of) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert [image["file"] for image in found["images"]] == [str(bad), str(good)]
    assert [image["neighbours"] for image in found["images"]] == [None, None]
    first, second = found["images"]
    assert (first["top"], first["cam_peak"]) == ([], None)
    assert first["error"].startswith(f"{bad}: not an image")
    assert second["error"] is None
    assert second["truth"] is None
    assert shown.err == f"alexnet: {first['error']}\n"
    assert first["error"] in words(parsed(out))
    model = load_model(run)
    (expected,) = predict(model, [good], precision="fp32")
    assert [(each["class"], pytest.approx(each["probability"], abs=1e-5)) for each in second["top"]] == expected.top
    x = inputs(model, [Image.open(good)])
    assert second["cam_peak"] == pytest.approx(float(grad_cam(model, x, model(x).argmax(1)).max()), rel=1e-4)


def test_of_many_images_a_fixed_choice_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "JUDGED", 20)
    out = tmp_path / "page.html"
    found = [explain(network(), [], noisy(), out=out, title="x", neighbours=12) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["validation"]["count"] == 20
    told = words(parsed(out))
    assert "20 of 30 images, split val of noise: a fixed choice" in told
    assert "among 12 of 30 training images" in told


@pytest.mark.parametrize("variant", ["no-conv3", "no-conv4"])
def test_a_network_with_a_convolution_less(tmp_path: Path, variant: str) -> None:
    out, model = tmp_path / "page.html", network(variant)
    found = explain(model, [], noisy(), out=out, title="x", neighbours=0, patch=("conv5", 1))
    left = [name for name in flags.CONVOLUTIONS if name != variant.removeprefix("no-")]
    assert [each["name"] for each in found["layers"]] == left
    with pytest.raises(ValueError, match=f"--layer {variant[3:]}: allowed is one of {', '.join(left)}"):
        explain(model, [], noisy(), out=out, title="x", patch=(variant[3:], 1))


def test_the_snippet_of_the_docs_runs(run: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "explain.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(code.replace("runs/python", str(run)), names)
    assert names["cam"].shape == (1, 13, 13)
    assert names["places"].shape == (1, 5)
    assert (names["field"].size, names["field"].stride, names["field"].start) == (99, 16, -34)


def test_without_run_and_data_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    file, out = tmp_path / "a.png", tmp_path / "page.html"
    Image.fromarray(noise(1).store.array[0]).save(file)
    found = explain(network("paper"), [file], out=out, title="weights")
    assert found["validation"] is None
    told = words(parsed(out))
    assert "neither accuracy, patches and errors nor neighbours: no data set was named." in told
    assert "before training are left out: there is no run folder" in told
    assert ("tower 1, after training" in told, "tower 2, after training" in told) == (True, True)


def test_a_run_without_its_data_still_explains_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, moved = tmp_path / "a.png", tmp_path / "moved"
    Image.fromarray(noise(1).store.array[0]).save(file)
    moved.mkdir()
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["data"] = "/nowhere"
    (moved / "config.json").write_text(json.dumps(config))
    (moved / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes())
    assert cli.main(["explain", str(moved), str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("without accuracy, patches, errors and neighbours: --data '/nowhere': no such data set")
    told = words(parsed(moved / "explain.html"))
    assert "nor neighbours: --data '/nowhere': no such data set" in told
    assert "before training, from the same seed" in told
    assert cli.main(["explain", str(moved)]) == 2
    assert cli.main(["explain", str(moved), str(file), "--data", "/nowhere"]) == 2


def test_of_another_run_there_is_no_beginning(tmp_path: Path) -> None:
    config = {"recipe": dataclasses.asdict(recipes.quickstart(variant="paper")), "classes": list(EVIL)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "page.html"
    explain(network(), [], noisy(), out=out, title="x", run=tmp_path, neighbours=0)
    assert "config.json is of another network" in words(parsed(out))


def test_both_towers_have_their_filters(tmp_path: Path) -> None:
    config = {"recipe": dataclasses.asdict(recipes.paper()), "classes": list(EVIL)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "page.html"
    explain(network("paper"), [], noisy(), out=out, title="x", run=tmp_path, neighbours=0)
    alts = [each.get("alt") for each in parsed(out).iter("img") if "filters" in each.get("alt", "")]
    assert alts == ["4 filters after training", "4 filters before training"] * 2


def test_where_nothing_speaks_for_a_class_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, dataset = tmp_path / "page.html", noisy()
    explain(network(), [], dataset, out=out, title="x", neighbours=0)
    assert "nothing speaks for this class" not in words(parsed(out))
    monkeypatch.setattr(images, "grad_cam", lambda model, x, classes: -torch.rand(len(x), 13, 13) - 0.5)
    found = explain(network(), [], dataset, out=out, title="x", neighbours=0)
    assert words(parsed(out)).count("nothing speaks for this class, lowest −1.") == 10
    assert all(image["cam_peak"] < 0 for image in found["images"])


def test_a_map_that_survives_a_new_fc8_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "page.html"
    same = torch.linspace(-1, 1, 169).view(13, 13)
    monkeypatch.setattr(images, "grad_cam", lambda model, x, classes: same.expand(len(x), -1, -1))
    explain(network(), [], noisy(), out=out, title="x", neighbours=0)
    assert "correlation +1.00: the same form, so it says nothing of this class" in words(parsed(out))


def test_another_channel_can_be_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = explain(network(), [], noisy(), out=out, title="x", patch=("conv3", 7), neighbours=0)
    assert found["layers"][2]["channel"] == 7
    assert "conv3, channel 7" in words(parsed(out))
    assert "looks at 163×163 pixels" in words(parsed(out))


def test_many_classes_get_a_picture_and_the_worst_of_them(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(30))
    out = tmp_path / "page.html"
    explain(network(classes=classes), [], noisy(classes), out=out, title="x", neighbours=0)
    tree = parsed(out)
    assert [each.get("alt") for each in tree.iter("img")].count("confusion matrix") == 1
    assert len(list(tree.iter("tr"))) == 21


def test_the_fullest_page_stays_under_ten_megabytes(tmp_path: Path) -> None:
    """Noise, which no format compresses, in as many images as are allowed."""
    files = []
    for index, pixels in enumerate(noise(MOST, 300).store.array):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(files[-1])
    dataset = dataclasses.replace(noisy(side=230), train=Images(np.arange(MOST) % 4, Files([str(f) for f in files])))
    explain(network(), files, dataset, out=tmp_path / "page.html", title="x")
    assert 2e6 < (tmp_path / "page.html").stat().st_size < 10e6


def test_refusals(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "alone" / "last.ckpt"
    weights.parent.mkdir()
    weights.write_bytes((run / "last.ckpt").read_bytes())
    many = [f"{i}.png" for i in range(13)]
    for argv, said in (
        (["--layer", "conv3"], "--layer and --channel: allowed are both"),
        (["--layer", "conv6", "--channel", "1"], "--layer conv6: allowed is one of conv1"),
        (["--layer", "conv3", "--channel", "12"], "--channel 12: allowed is 0 to 11, the channels of conv3"),
        (["--out", str(tmp_path / "no" / "x.html")], "its folder does not exist"),
        (["--out", str(tmp_path / "x.ckpt")], "allowed is a file whose name ends in .html"),
        (["--data", "none"], "--data: needed where no image is named"),
        (many, "13 images are named, and a page holds up to 12"),
        (["--neighbours", "-1"], "--neighbours -1: allowed is 0 or more"),
        (["a.png", "--nieghbours", "3"], "--nieghbours: no such flag (did you mean --neighbours?)"),
    ):
        assert cli.main(["explain", str(run), *argv]) == 2, argv
        assert said in capsys.readouterr().err
    assert cli.main(["explain", str(weights)]) == 2
    assert "--data: needed, for" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
    assert convolutions(network()) == flags.CONVOLUTIONS


def test_the_images_held_out_by_a_run_are_what_it_validated_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "held"
    recipe = recipes.quickstart(max_steps=1, val_every=100, device="cpu", holdout=200)
    train.run(recipe, out=folder, quiet=True)
    assert cli.main(["explain", str(folder), "--json", "--neighbours", "0"]) == 0
    held = len(datasets.load("digits").with_holdout(200).val)
    seen = document(capsys)["validation"]
    assert (seen["count"], seen["split"]) == (held, "holdout")
