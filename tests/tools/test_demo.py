"""The demo: its HTML whatever a class is called, what it refuses, and the page in a browser without a network."""

import asyncio
import dataclasses
import os
import re
import shutil
import socket
import sys
from pathlib import Path
from unittest import mock

import html5lib
import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.datasets import Dataset, Images, Pixels
from alexnet.data.normalization import Normalization
from alexnet.errors import FieldError
from alexnet.evaluate import predict
from alexnet.model import AlexNet_2012, ModelInfo
from alexnet.tools import demo
from alexnet.tools.demo import Demo, launch

HOSTILE = (
    "<img src=x onerror=alert(1)>", "", "قطة \u202e tac", "w" * 300, "${alert(1)}", "{{constructor}}", "cat & 'dog'",
)  # fmt: skip
WAIT = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    model = AlexNet_2012(len(HOSTILE), init="he", width_mult=1 / 16).eval().requires_grad_(False)
    norm = Normalization((0.5, 0.4, 0.6), (0.25, 0.25, 0.25))
    model.info = ModelInfo("classic", HOSTILE, norm, "colours", width_mult=1 / 16)
    return model


def images(count, seed):
    """Noise around a colour for each class, ``count`` a class."""
    colours = np.random.default_rng(0).integers(0, 256, (len(HOSTILE), 3))
    labels = np.repeat(np.arange(len(HOSTILE)), count)
    noisy = np.random.default_rng(seed).normal(colours[labels][:, None, None], 25, (len(labels), 32, 32, 3))
    return Images(labels, Pixels(np.clip(noisy, 0, 255).astype(np.uint8), "colours"))


@pytest.fixture(scope="module")
def dataset():
    return Dataset("colours", "colours", HOSTILE, images(6, seed=1), images(4, seed=2), "test")


@pytest.fixture
def shown(model, dataset):
    return Demo(model, dataset, device="cpu", precision="fp32")


@pytest.fixture
def picture(tmp_path):
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "a photograph.png"
    Image.fromarray(coarse).resize((320, 240)).save(path)
    return path


def parsed(html):
    """The fragment, if it is valid and runs and loads nothing."""
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(html)
    assert not list(tree.iter("script"))
    assert all(image.get("src").startswith("data:image/") for image in tree.iter("img"))
    assert not re.search(r"https?:", html)
    return tree


def text(html):
    return " ".join(" ".join(parsed(html).itertext()).split())


def test_the_header_names_every_class_and_says_what_a_softmax_cannot(shown):
    found = text(shown.header())
    assert "It knows 7 classes and nothing else" in found
    assert "none of these" in found
    for name in HOSTILE:
        assert " ".join(name.split()) in found


def test_the_answer_is_that_of_predict(shown, picture):
    html, _ = shown.answer(str(picture))
    (expected,) = predict(shown.model, [picture], device="cpu", precision="fp32")
    percents = [f"{100 * share:.1f}%" for _, share in expected.top]
    assert [each for each in re.findall(r"\d+\.\d%", text(html)) if each in percents][-5:] == percents
    for part in ("Evidence for the answer (Grad-CAM)", "Strongest feature maps", "conv5"):
        assert part in text(html)


def test_nearest_images_follow_the_progress(shown, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BLOCK", 30)
    dataset.train.image(17).save(tmp_path / "own.png")
    _, image = shown.answer(str(tmp_path / "own.png"))
    first, second, last = shown.nearest(image)
    assert "0 of 42" in text(first)
    assert "30 of 42" in text(second)
    files = [each.get("title") for each in parsed(last).iter("img")]
    assert files[0] == files[6] == dataset.train.name(17)
    assert list(shown.nearest(image)) == [last]


def test_without_data_there_are_no_examples_and_no_neighbours(model, picture):
    alone = Demo(model, device="cpu")
    assert alone.examples() == []
    assert list(alone.nearest(alone.answer(str(picture))[1])) == [""]


@pytest.mark.parametrize("data", [b"", "truncated", "large"])
def test_a_bad_file_is_answered_with_one_line(shown, picture, monkeypatch, data):
    if data == "large":
        monkeypatch.setattr(demo, "MAX_PIXELS", 1000)
    else:
        picture.write_bytes(picture.read_bytes()[:500] if data == "truncated" else data)
    html, image = shown.answer(str(picture))
    assert image is None
    (line,) = parsed(html).iter("p")
    assert line.text.startswith("a photograph.png")
    assert "\n" not in line.text


def test_only_open_image_reads_an_upload(shown, tmp_path):
    gradio = pytest.importorskip("gradio", reason="needs gradio: pip install 'alexnet-2012[demo]'")
    blocks = shown.build()
    (photo,) = (block for block in blocks.blocks.values() if isinstance(block, gradio.Image))
    assert photo.preprocess(photo.data_model(path="no image.heic")) == "no image.heic"
    assert photo.preprocess(None) is None
    (changed,) = (each for each in blocks.fns.values() if each.inputs == [photo])
    (tmp_path / "no image.heic").write_bytes(b"text")
    upload = {"path": str(tmp_path / "no image.heic"), "meta": {"_type": "gradio.FileData"}}
    (file,) = asyncio.run(blocks.preprocess_data(changed, [upload], None, explicit_call=True))  # Gradio calls it
    assert Path(file).read_bytes() == b"text"


def test_names_that_are_not_utf_8_are_shown(model, monkeypatch, picture):
    monkeypatch.setattr(model, "info", dataclasses.replace(model.info, classes=("caf\udce9",) * len(HOSTILE)))
    alone = Demo(model, device="cpu", precision="fp32")
    for html in (alone.header(), alone.answer(str(picture))[0]):
        assert "caf?" in html
        html.encode("utf-8")


def test_addresses_that_cannot_be_used(model):
    with pytest.raises(FieldError, match=r"^port must "):
        launch(model, port=70_000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1, port {port}"):
            launch(model, port=port)
    with pytest.raises(OSError, match=r"no\.such\.host\.invalid"):
        launch(model, host="no.such.host.invalid")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_uploads_are_deleted_and_nothing_leaves_the_machine(model, monkeypatch, host):
    at_exit = []
    monkeypatch.setattr(demo.atexit, "register", lambda *call, **_: at_exit.append(call))
    with mock.patch("gradio.Blocks.launch") as launch:
        blocks = demo.launch(model, device="cpu", host=host)
    assert at_exit[0] == (shutil.rmtree, os.environ["GRADIO_TEMP_DIR"])
    assert blocks.delete_cache == (60, 900)  # each minute, what is older than a quarter of an hour
    assert launch.call_args.kwargs["share"] is False
    assert launch.call_args.kwargs["show_error"] is (host == "127.0.0.1")
    assert not blocks.analytics_enabled


def test_without_gradio_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="alexnet-2012"):
        launch(model)


# --- in a browser


@pytest.fixture(scope="module")
def page(model, dataset):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'alexnet-2012[demo]'")
    app = launch(model, dataset, device="cpu", precision="fp32")
    yield app.local_url
    app.close()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("needs a browser: apt-get install chromium")
    offline = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=offline)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page):
    """The opened page. Nothing may have been asked of another machine, and no script of a class name been run."""
    view, requests, trouble = browser.new_page(), [], []
    view.on("request", lambda request: requests.append(request.url))
    view.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    view.on("pageerror", lambda error: trouble.append(str(error)))
    view.set_default_timeout(WAIT)
    view.goto(page)
    view.wait_for_selector("input[type=file]", state="attached")
    yield view
    view.close()
    assert [url for url in requests if not url.startswith((page, "data:", f"blob:{page}"))] == []
    assert trouble == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_an_uploaded_image_is_answered_and_the_page_fits(visit, picture, width, dark):
    visit.set_viewport_size({"width": width, "height": 800})
    visit.emulate_media(color_scheme="dark" if dark else "light")
    visit.set_input_files("input[type=file]", picture)
    visit.wait_for_selector(".answer")
    assert visit.locator(".answer .bars i").count() == 5
    visit.wait_for_selector(".near")
    assert visit.evaluate("document.scrollingElement.scrollWidth") <= width
    edges = "[...document.querySelectorAll('.alexnet *')].map(each => each.getBoundingClientRect().right)"
    assert visit.evaluate(f"Math.max(...{edges})") <= width + 1


@pytest.mark.slow
def test_an_example_the_cross_and_bad_files(visit, picture, tmp_path):
    visit.locator(".examples .grid-container button").nth(4).click()
    visit.wait_for_selector(".near")
    visit.get_by_label("Remove Image").click()
    visit.wait_for_selector("text=Upload, paste or photograph an image")
    assert visit.locator(".answer").count() == 0
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:700])
    visit.set_input_files("input[type=file]", tmp_path / "broken.png")
    assert "broken.png" in visit.wait_for_selector(".alexnet .error").inner_text()
    (tmp_path / "large.png").write_bytes(bytes(21 * 2**20))
    visit.set_input_files("input[type=file]", tmp_path / "large.png")
    visit.wait_for_selector("text=maximum allowed size")
    visit.set_input_files("input[type=file]", picture)  # and the page goes on
    visit.wait_for_selector(".answer")
