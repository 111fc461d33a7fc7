"""Pages: everything escaped, nothing from elsewhere, pictures inside."""

import base64
import io
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
from jinja2 import DictLoader, UndefinedError
from matplotlib.figure import Figure
from PIL import Image

from alexnet.report import html

EVIL = "<script>alert('x')</script>\"&"


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two templates beside the package's own."""
    environment = html._environment()
    base, _, _ = environment.loader.get_source(environment, "base.html")
    source = "{% extends 'base.html' %}{% block title %}{{ name }}{% endblock %}{% block content %}"
    source += '<p title="{{ name }}">{{ name }}</p><script type="application/json">{{ {"a": name}|tojson }}</script>'
    monkeypatch.setattr(environment, "loader", DictLoader({"base.html": base, "x.html": source + "{% endblock %}"}))
    environment.cache.clear()
    yield
    environment.cache.clear()


def figure() -> Figure:
    drawn = Figure(figsize=(3, 2))
    axes = drawn.subplots()
    axes.plot([1, 2], [3, 1], color="#2f6690", marker="o")
    axes.set_title(EVIL)
    return drawn


def parsed(text: str) -> Element:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def test_names_are_escaped_and_missing_values_are_errors(templates: None) -> None:
    page = html.render("x.html", name=EVIL)
    assert "<script>alert" not in page
    tree = parsed(page)
    assert tree.find(".//title").text == tree.find(".//p").text == tree.find(".//p").get("title") == EVIL
    with pytest.raises(UndefinedError):
        html.render("x.html")


def test_the_frame_fetches_nothing_and_runs_nothing(templates: None) -> None:
    page = html.render("x.html", name="a")
    assert not re.search(r"https?:|@import|\bsrc=|<link|url\(", page)
    assert re.findall(r"<script[^>]*>", page) == ['<script type="application/json">']


def test_a_figure_becomes_an_svg_element(templates: None) -> None:
    first = html.inline_svg(figure(), "one", EVIL, {"#2f6690": "var(--accent)"})
    assert first == html.inline_svg(figure(), "one", EVIL, {"#2f6690": "var(--accent)"})
    assert "var(--accent)" in first
    assert "#2f6690" not in first
    assert "http" not in first
    assert "<style" not in first
    second = html.inline_svg(figure(), "two", "b")
    tree = parsed(f"<!doctype html><title>x</title>{first}{second}")
    assert tree.find(".//{http://www.w3.org/2000/svg}svg").get("aria-label") == EVIL
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(set(ids)) == len(ids)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first + second)
    assert used
    assert {a or b for a, b in used} <= set(ids)


def test_pictures_become_addresses_that_hold_them(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    picture.save(tmp_path / "a.png")
    for given in (picture, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), figure()):
        head, _, data = html.png_uri(given).partition(",")
        assert head == "data:image/png;base64"
        shape = Image.open(io.BytesIO(base64.b64decode(data))).size
        assert shape == ((300, 200) if isinstance(given, Figure) else (3, 2))


def test_a_page_is_written_whatever_a_name_holds(tmp_path: Path) -> None:
    path = html.write_page(tmp_path / "x.html", "a\udc80 é العربية")
    assert path.read_text(encoding="utf-8") == "a? é العربية"
    with pytest.raises(OSError, match="missing"):
        html.write_page(tmp_path / "missing" / "x.html", "")
