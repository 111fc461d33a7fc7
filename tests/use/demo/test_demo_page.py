"""The page's parts: whatever a class or a file is called, they are whole; what has no answer is said in a line."""

import dataclasses
import io
import re

import html5lib
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio: pip install 'alexnet-2012[demo]'")

from alexnet.use.demo import page as page_module
from alexnet.use.demo.network import Network
from alexnet.use.demo.page import Asked, Page


def parse(html: str):
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(html)


def upload(page: Page, folder, data: bytes, name: str = "a.png"):
    (folder / name).write_bytes(data)
    return page.upload({"path": str(folder / name)}, Asked())


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, "PNG")
    return stream.getvalue()


def text_of(html: str) -> str:
    return " ".join(" ".join(parse(html).itertext()).split())


def test_every_part_is_valid_and_holds_the_names_as_text(network: Network, tmp_path) -> None:
    page = Page(network)
    network._index()
    _, answer, crop = upload(page, tmp_path, png())
    parts = [page.knows(), answer, page.maps(crop, "conv3"), *page.neighbours(crop, Asked())]
    for html in parts:
        tree = parse(html)
        assert not list(tree.iter("script"))
        assert all(image.get("src").startswith("data:image/") for image in tree.iter("img"))
        assert not re.search(r"https?:", html)
    knows = text_of(parts[0])
    for name in ("<img src=x onerror=alert(1)>", "(class 1, without a name)", "${alert(1)}", "w" * 300):
        assert name in knows


def test_what_the_network_knows_is_said_with_what_a_softmax_cannot_say(network: Network) -> None:
    text = text_of(Page(network).knows())
    assert "It knows 7 classes and nothing else" in text
    assert "“none of these”" in text
    assert "trained on colours · 71.5% of the validation images right at step 1,200" in text


def test_many_classes_are_folded(network: Network) -> None:
    page = Page(network)
    page.names = [f"class {i}" for i in range(1000)]
    tree = parse(page.knows())
    assert "and 960 more" in " ".join(tree.itertext())
    assert len(tree.findall(".//details//bdi")) == 960


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "empty"), (b"not an image", "not an image"), (png()[:60], "damaged or truncated")],
)
def test_a_file_that_is_no_image_is_answered_in_one_line(network: Network, tmp_path, data: bytes, says: str) -> None:
    name = "<b>bold & قطة.png"
    picture, html, crop = upload(Page(network), tmp_path, data, "x.png")
    assert picture is crop is None
    (line,) = parse(html).iter("p")
    assert line.text.startswith("x.png: ")
    assert says in line.text
    assert "\n" not in line.text
    assert name in text_of(upload(Page(network), tmp_path, data, name)[1])


def test_limits(network: Network, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_PIXELS", 1000)
    assert "too large: the limit is 1,000 pixels" in text_of(upload(Page(network), tmp_path, png((40, 30)))[1])
    assert upload(Page(network), tmp_path, png((40, 25)))[2] is not None
    monkeypatch.setattr(page_module, "MAX_BYTES", 50)
    assert "too large; the limit is" in text_of(upload(Page(network), tmp_path, png((9, 9)))[1])


def test_no_file_at_all(network: Network) -> None:
    page = Page(network)
    for nothing in (None, {}, {"path": None, "url": "data:image/png;base64,AAAA"}, {"path": "/nowhere/at all"}):
        assert page.upload(nothing, Asked())[2] is None
    assert page.maps(None, "conv1") == ""
    assert list(page.neighbours(None, Asked())) == [""]


def test_a_layer_that_is_none(network: Network) -> None:
    assert Page(network).maps(np.zeros((224, 224, 3), np.uint8), "classifier.fc8") == ""


def test_while_the_training_images_are_looked_at_the_page_says_how_far(network: Network, monkeypatch) -> None:
    monkeypatch.setattr(page_module, "TICK", 0.0)
    told = Page(network).neighbours(np.zeros((224, 224, 3), np.uint8), Asked())
    network.indexed = 7
    assert "Looking at the training images: 7 of 42" in text_of(next(told))
    network._index()
    assert "Nearest in pixels" in text_of(next(told))
    assert list(told) == []


@pytest.mark.parametrize(
    ("farther", "says"), [(0.3, "70% of its own 28 test images"), (0.97, "than 97% of"), (1.0, "than all")]
)
def test_what_is_far_from_all_training_images_is_told_apart(network: Network, farther: float, says: str) -> None:
    network._index()
    page = Page(network)
    deep, flat, _ = network.neighbours(np.zeros((224, 224, 3), np.uint8))
    text = text_of(page._near(deep, flat, farther))
    assert says in text
    assert ("none of the classes" in text) == (farther >= 0.95)


def test_nothing_speaks_for_a_class_whose_evidence_is_negative(network: Network) -> None:
    page = Page(network)
    answer = network.answer(Image.new("RGB", (50, 50), "teal"))
    answer.cams[:] = -answer.cams.abs() - 1
    assert "Nothing speaks for" in text_of(page._drawn(answer, None))
    answer.cams[0, 4, 5] = 2.5
    assert "its peak is 2.5" in text_of(page._drawn(answer, 3))


def test_what_is_said_of_an_earlier_picture_ends_with_the_next(network: Network, monkeypatch) -> None:
    monkeypatch.setattr(page_module, "TICK", 0.0)
    page, asked = Page(network), Asked()
    told = page.neighbours(np.zeros((224, 224, 3), np.uint8), asked)
    next(told)
    page.upload(None, asked)
    network._index()
    assert list(told) == []


@pytest.mark.parametrize(
    ("flip", "says"),
    [(True, "They do not agree"), (False, "another thing, and may well be answered so. The moved copy agrees")],
)
def test_a_mirrored_copy_is_judged_only_where_it_is_the_same_thing(network: Network, flip: bool, says: str) -> None:
    page = Page(network)
    answer = network.answer(Image.new("RGB", (50, 50), "teal"))
    first = answer.top[0][0]
    answer.copies[:] = [(what, (first + (what == "mirrored")) % 7, 0.5) for what, *_ in answer.copies]
    network.dataset = dataclasses.replace(network.dataset, flip=flip)
    assert says in text_of(page._drawn(answer, None))
