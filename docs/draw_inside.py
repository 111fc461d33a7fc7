"""The three pictures of README that look inside a trained network: docs/inside-*.png.

.venv/bin/python docs/draw_inside.py RUN [--data digits] [--index N] [--only filters]

The filters of conv1; one validation image with the evidence for its most probable class; the page of ``alexnet demo``
with the same image, as Debian's chromium shows it (by Playwright).
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image

from alexnet import load_model
from alexnet.curves import COLOURS, canvas
from alexnet.data import datasets
from alexnet.model import AlexNet_2012
from alexnet.tools import explain
from alexnet.tools.demo import launch
from alexnet.tools.explain.draw import evidence_image
from alexnet.tools.filters import filter_sheet

HERE = Path(__file__).resolve().parent
SIDE = 5.6  # inches of 100 pixels


def draw_filters(model: AlexNet_2012, path: Path) -> None:
    """All filters of conv1 in their order, each scaled by itself."""
    sheet = filter_sheet(model.features.conv1.weight, columns=12)
    scale = int(100 * SIDE) // sheet.width
    sheet = sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.NEAREST)
    Image.alpha_composite(Image.new("RGBA", sheet.size, "white"), sheet.convert("RGBA")).convert("RGB").save(path)


def draw_image(model: AlexNet_2012, dataset: datasets.Dataset, index: int, path: Path) -> None:
    """One image: what the network sees, the evidence for its answer, and its five most probable classes."""
    (found,) = explain.explain_images(model, [dataset.val.image(index)])
    names = model.info.classes
    evidence = evidence_image(found.view, found.evidence[0], explain.receptive_field(model, "relu5")).convert("RGB")
    with canvas(SIDE, SIDE * 2 / 3) as figure:
        axes = figure.subplot_mosaic([["view", "evidence"], ["bars", "bars"]], height_ratios=[3, 2])
        titles = {
            "view": f"class: {names[dataset.val.labels[index]]}",
            "evidence": f"evidence for {names[found.top[0][0]]}",
        }
        for (name, title), picture in zip(titles.items(), (found.view, evidence), strict=True):
            axes[name].imshow(picture)
            axes[name].set_title(title)
            axes[name].axis("off")
        ax, shares = axes["bars"], [100 * share for _, share in found.top]
        ax.barh(range(len(shares)), shares, color=[COLOURS["edge" if i else "train"] for i in range(len(shares))])
        ax.set_yticks(range(len(shares)), [names[i] for i, _ in found.top])
        for place, share in enumerate(shares):
            ax.text(share + 1, place, f"{share:.1f}%", va="center")
        ax.set_xlim(0, 115)
        ax.invert_yaxis()
        ax.xaxis.set_visible(False)
        ax.grid(False)
        figure.savefig(path)


def draw_demo(model: AlexNet_2012, dataset: datasets.Dataset, number: int, path: Path) -> None:
    """The page of ``alexnet demo`` after example ``number`` was chosen."""
    from playwright.sync_api import sync_playwright

    page = launch(model, dataset, device="cpu", block=False)
    try:
        with sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 1000, "height": 1000})
            view.set_default_timeout(300_000)
            view.goto(page.local_url)
            view.locator(".examples button").nth(number).click()
            view.wait_for_timeout(60_000)  # the answer, then the neighbours
            view.screenshot(path=path)
            browser.close()
    finally:
        page.close()
    Image.open(path).convert("RGB").save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run folder, a file of weights or a bundled network")
    parser.add_argument("--data", default="digits", help="its data set (default digits)")
    parser.add_argument("--index", type=int, default=4, help="which of the demo's ten examples is shown (default 4)")
    parser.add_argument("--only", choices=("filters", "image", "demo"), nargs="+", default=("filters", "image", "demo"))
    args = parser.parse_args()
    model, dataset = load_model(args.run), datasets.load(args.data)
    for name in args.only:
        path = HERE / f"inside-{name}.png"
        if name == "filters":
            draw_filters(model, path)
        elif name == "image":
            draw_image(model, dataset, explain.choose_examples(dataset)[args.index], path)
        else:
            draw_demo(model, dataset, args.index, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
