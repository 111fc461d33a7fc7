"""Pages: escaped, self-contained, with pictures inside."""

import re

import html5lib
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure

from alexnet.tools import html

EVIL = "<script>alert('x')</script>\"&"


def figure():
    drawn = Figure(figsize=(3, 2))
    axes = drawn.subplots()
    axes.plot([1, 2], [3, 1], color="#2f6690", marker="o")
    axes.set_title(EVIL)
    return drawn


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        html.render("run.html")


def test_a_page_forbids_scripts_and_what_is_elsewhere():
    page = html._environment().from_string('{% extends "base.html" %}').render()
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    (policy,) = (each.get("content") for each in tree.iter("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_figure_becomes_an_svg_element():
    first = html.inline_svg(figure(), "one", EVIL)
    assert first == html.inline_svg(figure(), "one", EVIL)
    assert "var(--accent)" in first
    assert not re.search(r"#2f6690|https?:|<style", first)
    second = html.inline_svg(figure(), "two", "b")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(
        f"<!doctype html><title>x</title>{first}{second}"
    )
    assert tree.find(".//{http://www.w3.org/2000/svg}svg").get("aria-label") == EVIL
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(set(ids)) == len(ids)
    used = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first + second)}
    assert used
    assert used <= set(ids)
