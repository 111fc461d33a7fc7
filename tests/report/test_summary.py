"""Counts against the published ones, and the page and the picture that are made from them."""

import importlib
import re
import runpy
from pathlib import Path

import matplotlib
import pytest

from alexnet.report.summary import NETWORKS, format_summary, format_variants, summarize, variants_table

DOCS = Path(__file__).parents[2] / "docs"

TWO_TOWERS = dict.fromkeys(("paper", "source", "caffe", "caffenet"), (60_965_224, 56_909_194))
PARAMETERS = {"classic": (62_378_344, 58_322_314), **TWO_TOWERS, "torchvision": (61_100_840, 57_044_810)}


@pytest.fixture(scope="module")
def rows():
    return variants_table()


@pytest.mark.parametrize("network", PARAMETERS)
def test_parameters(network):
    """facts.md: 1000 classes, 10 classes."""
    assert tuple(summarize(network, classes)["parameters"] for classes in (1000, 10)) == PARAMETERS[network]


def test_multiply_adds_of_classic():
    """facts.md: in millions, and 1,131 in all."""
    summary = summarize("classic", 10)
    counts = {layer["name"]: layer["multiply_adds"] / 1e6 for layer in summary["layers"] if layer["multiply_adds"]}
    full = sum(counts.pop(name) for name in ("fc6", "fc7", "fc8"))
    wanted = {"conv1": 105.4, "conv2": 447.9, "conv3": 149.5, "conv4": 224.3, "conv5": 149.5}
    assert counts == pytest.approx(wanted, abs=0.05)
    assert full == pytest.approx(54.6, abs=0.05)
    assert round(summary["multiply_adds"] / 1e6) == 1131


def test_layers_of_classic():
    summary = summarize()
    assert summary.keys() == {"variant", "num_classes", "parameters", "multiply_adds", "layers"}
    assert (summary["variant"], summary["num_classes"]) == ("classic", 10)
    layers = {layer["name"]: layer for layer in summary["layers"]}
    assert " ".join(layers) == (
        "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 "
        "drop6 fc6 relu6 drop7 fc7 relu7 fc8"
    )
    assert layers["conv2"] == {
        "name": "conv2",
        "type": "Conv2d",
        "output": [256, 27, 27],
        "parameters": 256 * (96 * 25 + 1),
        "multiply_adds": 27 * 27 * 256 * 96 * 25,
    }
    assert layers["pool5"]["output"] == [256, 6, 6]
    assert layers["fc8"]["output"] == [10]
    assert sum(layer["parameters"] for layer in summary["layers"]) == summary["parameters"]


def test_groups_halve_the_multiply_adds():
    whole, halved = (
        {layer["name"]: layer["multiply_adds"] for layer in summarize(name)["layers"]} for name in ("classic", "paper")
    )
    for name in ("conv2", "conv4", "conv5"):
        assert whole[name] == 2 * halved[name]
    assert whole["conv3"] == halved["conv3"]


def test_unknown_variant():
    with pytest.raises(ValueError, match="variant alexnet: allowed is one of classic"):
        summarize("alexnet")


def test_format_summary():
    text = format_summary(summarize("source", 1000))
    assert "60,965,224" in text.splitlines()[-1]
    assert "within2" in text
    assert max(len(line) for line in text.splitlines()) < 80


def test_variants_table(rows):
    values = {row["what"]: row["values"] for row in rows}
    for row in rows:
        assert tuple(row["values"]) == NETWORKS
        assert len(set(row["values"].values())) > 1, f"{row['what']}: all agree"
        assert row["source"]
    assert values["layer 1"]["source"] == "conv, norm, pool, relu"
    assert values["layer 2"]["source"] == "conv, relu, norm, norm in map, pool"
    assert values["layer 1"]["caffenet"] == "conv, relu, pool, norm"
    assert values["layer 1"]["torchvision"] == "conv, relu, pool"
    assert values["filters"]["torchvision"] == "64-192-384-256-256"
    assert values["norm: α over n = 5"] == {
        **dict.fromkeys(("classic", "source", "caffe", "caffenet"), "0.00002"),
        "paper": "0.0001",
        "torchvision": "no norm",
    }
    assert [values["norm: k"][name] for name in NETWORKS] == ["2", "2", "2", "1", "1", "no norm"]
    assert values["dropout on"]["classic"].startswith("inputs")
    assert values["weights"]["source"] == "N(0, 0.01); conv3, conv4, conv5: 0.03"
    biases = values["biases of conv2, 4, 5, fc6, 7"]
    assert [biases[name] for name in NETWORKS] == ["1", "1", "1", "0.1", "1", "U(±1/√fan-in)"]
    assert values["parameters, 10 classes"]["caffe"] == "56,909,194"


def test_format_variants(rows):
    text = format_variants(rows)
    assert max(len(line) for line in text.splitlines()) < 120
    for row in rows:
        assert row["what"] in text
        assert row["source"] in text
    markdown = format_variants(rows, markdown=True)
    assert markdown.splitlines()[0].count("|") == len(NETWORKS) + 2


# --- docs/fidelity.md and docs/architecture.svg -----------------------------------------------------------------------


def test_the_pages_table_is_the_programs(rows):
    page = (DOCS / "fidelity.md").read_text()
    (table,) = re.findall(r"^<!-- variants.*?-->\n\n(.*?)\n\n<!-- end of variants -->$", page, re.DOTALL | re.MULTILINE)
    assert table == format_variants(rows, markdown=True)


def test_the_page_names_code_that_exists():
    page = (DOCS / "fidelity.md").read_text()
    named = re.findall(r"`((?:(?:data|run|weights|use)\.\w+|lrn|model|recipes)\.[A-Za-z_]\w*)[\w.]*`", page)
    assert len(named) > 10
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"alexnet.{module}"), attribute), name
    from alexnet.model import Variant

    for field in re.findall(r"`Variant\.(\w+)`", page):
        assert field in Variant.__dataclass_fields__, field


def test_the_pages_figures():
    page = (DOCS / "fidelity.md").read_text()
    layers = summarize("paper", 1000)["layers"]
    sizes = [layer["output"] for layer in layers if layer["type"] in ("Conv2d", "Linear")]
    neurons = sum(size[0] * (size[1] * size[2] if len(size) == 3 else 1) for size in sizes)
    assert f'650,000 neurons" {neurons:,}' in page
    more = PARAMETERS["classic"][1] - PARAMETERS["paper"][1]
    assert f"{more:,} weights more" in page


def test_the_picture_is_the_programs(tmp_path):
    committed = (DOCS / "architecture.svg").read_bytes()
    drawn_by = re.search(rb"Matplotlib v([\w.]+)", committed).group(1).decode()
    if drawn_by != matplotlib.__version__:
        pytest.skip(f"drawn by matplotlib {drawn_by}, here is {matplotlib.__version__}")
    runpy.run_path(str(DOCS / "draw_architecture.py"))["draw"](tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == committed
