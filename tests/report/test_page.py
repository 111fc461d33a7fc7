"""The pages: whole, valid, safe, and of what there is."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest
import torch
from fake_runs import DATA, make_run, rows
from PIL import Image

from alexnet.data.normalization import Normalization
from alexnet.model import AlexNet_2012
from alexnet.recipes import quickstart
from alexnet.report.filters import filter_sheet
from alexnet.report.page import default_out, report
from alexnet.report.record import read
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import LAST, save_checkpoint

SVG = "{http://www.w3.org/2000/svg}svg"
NAMES = [
    "<script>alert(1)</script>&\"'",
    "</script><b>",
    "",
    "תוצאה של הריצה",
    "x" * 300,
    "a\u202eb",
    "{{ 7 * 7 }}",
    "$5\n$6",
]


def parsed(path: Path) -> Element:
    """The page, if a validating parser finds no error in it."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|@import|<link|<iframe|\bon\w+=", re.sub(r'(?s)<script type="application/json".*', "", text)
    )
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def embedded(tree: Element) -> dict[str, Any]:
    (element,) = tree.iter("script")
    assert element.get("type") == "application/json"
    return json.loads(element.text, parse_constant=pytest.fail)


def text_of(tree: Element) -> str:
    return " ".join(" ".join(tree.find("body").itertext()).split())


def test_one_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "first", 70.19, recipe={"lr": 0.03})
    done = report([folder])
    assert done["out"] == folder / "report.html"
    assert done["runs"] == [{"folder": folder, "recipe": "quickstart", "seed": 0, "final": rows(135, 70.19)[-1]}]
    tree = parsed(done["out"])
    text = text_of(tree)
    for told in (
        done["findings"][0],
        read(folder).command(),
        f"lr 0.03 {quickstart().lr}",
        "abcdef012345",
        "0123456789abcdef",
        "Some CPU, 2 cores",
        "torch 2.15.0",
        "70.19% 65.27 to 74.69 359 validation images",
        "Picked: on the way the validation accuracy was highest at step 90, with 75.19%",
        "validating 4.5 s",
        "saving 0.8 s",
        "holds no last.ckpt",
    ):
        assert told in text
    assert len(list(tree.iter(SVG))) == 6
    data = embedded(tree)
    assert data["findings"] == done["findings"]
    assert data["runs"][0]["rows"] == rows(135, 70.19)
    assert data["runs"][0]["config"] == json.loads((folder / "config.json").read_text())


def test_several_runs(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / f"{name}-{seed}", 70 + more + seed, recipe={"seed": seed, "lr": lr})
        for name, lr, more in (("base", 0.01, 0), ("new", 0.02, 2))
        for seed in range(3)
    ]
    done = report(folders)
    assert done["out"] == tmp_path / "report.html"
    assert done["findings"][0].startswith("lr 0.02 is better than lr 0.01: 2.00 points higher")
    tree = parsed(done["out"])
    text = text_of(tree)
    assert "lr 0.01 0.02" in text
    assert "71.00 ± 1.00" in text
    assert all(folder.name in text for folder in folders)
    charts = list(tree.iter(SVG))
    assert len(charts) == 4
    drawn = [path for path in charts[0].iter() if "stroke: var(--c" in path.get("style", "")]
    assert {re.search(r"--c\d", path.get("style"))[0] for path in drawn} == {"--c1", "--c2"}
    data = embedded(tree)
    assert data["comparisons"][0]["difference"]["count"] == 3
    assert [setting["values"] for setting in data["settings"]] == [[70, 71, 72], [72, 73, 74]]
    assert [run["seed"] for run in done["runs"]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_names_break_nothing(tmp_path: Path, name: str) -> None:
    folder = re.sub(r"[/\n]", "_", name)[:100] or "empty"
    more = {"data": DATA | {"name": name, "val_split": name or "val"}, "classes": [name, "b"], "commit": name}
    settings = {"name": name, "data": name}
    runs = [
        make_run(tmp_path / folder, recipe=settings, **more),
        make_run(tmp_path / "other", recipe={"init": name, "seed": 1}, versions={"torch": name}),
    ]
    for chosen, out in ((runs[:1], "one.html"), (runs, "both.html")):
        tree = parsed(report(chosen, tmp_path / out)["out"])
        assert len(list(tree.iter("b"))) == len(list(tree.iter(SVG)))  # each chart's title, and no other
        assert embedded(tree)["runs"][0]["config"]["data"]["name"] == name
        assert "49" not in tree.find("head/title").text


def test_a_run_of_which_little_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    page = parsed(report([tmp_path])["out"])
    assert "no row yet" in text_of(page)
    first = make_run(tmp_path / "a", logged=[])
    second = make_run(tmp_path / "b", logged=[{"step": 4, "train_loss": None, "val_loss": None, "val_acc": None}])
    for chosen in ([first], [second], [first, second]):
        parsed(report(chosen, tmp_path / "x.html")["out"])


def test_a_resumed_run_shows_where(tmp_path: Path) -> None:
    parts = [{"step": 0, "commit": "aaa"}, {"step": 60, "commit": "bbb"}]
    whole, resumed = make_run(tmp_path / "a"), make_run(tmp_path / "b", parts=parts)
    tree = parsed(report([resumed])["out"])
    assert "60 not recorded bbb" in text_of(tree)
    dotted = [sum("stroke-dasharray: 1.35" in (e.get("style") or "") for e in svg.iter()) for svg in tree.iter(SVG)]
    assert dotted == [1] * 6
    assert "upright" not in text_of(parsed(report([whole])["out"]))


@pytest.mark.parametrize(("variant", "sheets"), [("classic", 1), ("paper", 2), ("no-dropout", 1)])
def test_filters_of_the_last_checkpoint(tiny_network: None, tmp_path: Path, variant: str, sheets: int) -> None:
    folder = make_run(tmp_path / "a")
    model = AlexNet_2012(3, variant)
    card = ModelCard(variant, ("a", "b", "c"), Normalization((0.0,) * 3, (1.0,) * 3), "x")
    save_checkpoint(folder / LAST, {"model": model.state_dict(), "progress": {"step": 135}}, card)
    tree = parsed(report([folder])["out"])
    pictures = [element.get("src") for element in tree.iter("img")]
    assert len(pictures) == sheets
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    half = filter_sheet(model.state_dict()["features.conv1.weight"].chunk(sheets)[0])
    np.testing.assert_array_equal(np.asarray(first), np.asarray(half))
    assert f"The {len(model.features.conv1.weight)} filters of 11×11×3 at step 135" in text_of(tree)
    (folder / LAST).write_bytes(b"no checkpoint")
    assert "No filters: " in text_of(parsed(report([folder])["out"]))


def test_filters_are_scaled_each_by_itself() -> None:
    weight = torch.zeros(5, 3, 2, 2)
    weight[0, 0] = torch.tensor([[1e-6, 2e-6], [3e-6, 4e-6]])
    weight[1, 2, 0, 0], weight[1, 1, 1, 1] = 100.0, -100.0
    weight[2] = float("nan")
    sheet = np.asarray(filter_sheet(weight, columns=2))
    assert sheet.shape == (8, 5, 4)
    assert sheet[:2, :2, 0].tolist() == [[64, 128], [191, 255]]
    assert sheet[0, 3].tolist() == [128, 128, 255, 255]
    assert sheet[1, 4].tolist() == [128, 0, 128, 255]
    assert (sheet[2, :, 3] == 0).all()
    assert (sheet[:, 2, 3] == 0).all()


def test_where_the_page_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = tmp_path / "runs" / "a", tmp_path / "runs" / "b", tmp_path / "c"
    assert default_out([a]) == a / "report.html"
    assert default_out([a, b]) == tmp_path / "runs" / "report.html"
    with pytest.raises(ValueError, match="--out: needed"):
        default_out([a, c])
    a.mkdir(parents=True)
    monkeypatch.chdir(a)
    assert default_out([Path(".."), c]).resolve() == tmp_path / "report.html"


@pytest.mark.parametrize(
    ("out", "message"),
    [("x.ckpt", "ends in .html"), ("gone/x.html", "does not exist"), ("folder.html", "a folder"), ("x", "ends in")],
)
def test_a_wrong_place_is_refused_before_any_work(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=f"--out .*{message}"):
        report([tmp_path / "gone"], tmp_path / out)


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="named twice"):
        report([folder, tmp_path / "b" / ".." / "a"])
