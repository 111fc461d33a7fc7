"""Counts against the published ones, and the table and the picture in docs/ that are made from them."""

import re
import runpy
from pathlib import Path

import matplotlib
import pytest

from alexnet.errors import FieldError
from alexnet.tools.summary import NETWORKS, format_summary, format_variants, summarize, variants_table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def rows():
    return variants_table()


def test_layers_of_classic():
    assert summarize("torchvision", 1000)["parameters"] == 61_100_840
    with pytest.raises(FieldError, match=r"^width_mult must "):
        summarize("torchvision", 10, 0.25)
    with pytest.raises(FieldError, match=r"^num_classes must "):
        summarize("torchvision", 0)
    summary = summarize()
    assert (summary["variant"], summary["num_classes"]) == ("classic", 10)
    layers = {layer["name"]: layer for layer in summary["layers"]}
    assert layers["conv2"] == {
        "name": "conv2", "type": "Conv2d", "output": [256, 27, 27], "parameters": 256 * (96 * 25 + 1),
        "multiply_adds": 27 * 27 * 256 * 96 * 25,
    }  # fmt: skip
    assert sum(layer["parameters"] for layer in summary["layers"]) == summary["parameters"]
    counts = {layer["name"]: layer["multiply_adds"] / 1e6 for layer in summary["layers"] if layer["multiply_adds"]}
    published = {"conv1": 105.4, "conv2": 447.9, "conv3": 149.5, "conv4": 224.3, "conv5": 149.5}
    assert {name: counts[name] for name in published} == pytest.approx(published, abs=0.05)
    assert summary["multiply_adds"] == pytest.approx(1131e6, abs=0.5e6)


@pytest.mark.parametrize("arguments", [("alexnet", 10), ("classic", 0), ("classic", 10, -1.0)])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match=str(arguments[-1] if arguments[0] == "classic" else "alexnet")):
        summarize(*arguments)


def test_tables_fit_a_terminal(rows):
    text = format_summary(summarize("source", 1000))
    assert "60,965,224" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) < 80
    text = format_variants(rows)
    assert max(map(len, text.splitlines())) < 120
    assert all(row["what"] in text and row["source"] in text for row in rows)


def test_variants_table(rows):
    values = {row["what"]: row["values"] for row in rows}
    for row in rows:
        assert tuple(row["values"]) == NETWORKS
        assert len(set(row["values"].values())) > 1, f"{row['what']}: all are the same"
        assert row["source"]
    assert values["layer 1"]["source"] == "conv, norm, pool, relu"
    assert values["layer 2"]["source"] == "conv, relu, norm, norm in map, pool"
    assert values["filters"]["torchvision"] == "64-192-384-256-256"
    assert [values["norm: k"][name] for name in NETWORKS] == ["2", "2", "2", "1", "1", "no norm"]
    assert values["norm: α over n = 5"]["paper"] == "0.0001"
    assert values["weights"]["source"] == "N(0, 0.01); conv3, conv4, conv5: 0.03"


def test_the_table_in_the_docs_is_up_to_date(rows):
    page = (DOCS / "fidelity.md").read_text()
    (table,) = re.findall(r"^<!-- variants.*?-->\n\n(.*?)\n\n<!-- end of variants -->$", page, re.DOTALL | re.MULTILINE)
    assert table == format_variants(rows, markdown=True)


def test_the_picture_in_the_docs_is_up_to_date(tmp_path):
    committed = (DOCS / "architecture.svg").read_bytes()
    drawn_by = re.search(rb"Matplotlib v([\w.]+)", committed)[1].decode()
    if drawn_by != matplotlib.__version__:
        pytest.skip(f"drawn by matplotlib {drawn_by}, and this is {matplotlib.__version__}")
    runpy.run_path(str(DOCS / "draw_architecture.py"))["draw"](tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == committed
