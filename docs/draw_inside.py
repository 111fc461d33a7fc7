"""The three pictures of the README that look inside a trained network: docs/inside-*.png.

.venv/bin/python docs/draw_inside.py RUN [--index N] [--only filters]

The filters of conv1; what one validation image is taken for, and which part of it speaks for that; the page of
`alexnet demo` with the same image. The page is photographed in Debian's chromium, by Playwright.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet import load_model
from alexnet.data import datasets
from alexnet.report.plots import canvas
from alexnet.use import explain
from alexnet.use.demo import serve
from alexnet.use.demo.network import Example, Network
from alexnet.use.explain.pictures import over_picture

HERE = Path(__file__).resolve().parent
SIDE = 5.6  # inches, of 100 pixels
PICTURES = ("filters", "image", "demo")
BARS = ("#2f6690", "#b9bec6")


def filters(network: Network, path: Path) -> None:
    """All filters of conv1, in their order, each scaled by itself."""
    found = explain.conv1_filters(network.model).permute(0, 2, 3, 1).numpy()
    columns = max(n for n in range(1, 13) if len(found) % n == 0)
    with canvas(SIDE, SIDE * len(found) / columns**2) as figure:
        axes = figure.subplots(len(found) // columns, columns)
        for ax, each in zip(axes.flat, found, strict=True):
            ax.imshow(each, interpolation="nearest")
            ax.axis("off")
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.04, hspace=0.04)
        figure.savefig(path)


def image(network: Network, example: Example, path: Path) -> None:
    """One image: what the network is given, what speaks for its answer, and its five most likely classes."""
    answer, names = network.answer(example.picture), network.card.classes
    crop, field = Image.fromarray(answer.crop), explain.receptive_field(network.model, "relu5")
    over = over_picture(crop, answer.cams[0], field).convert("RGB")
    with canvas(SIDE, SIDE * 2 / 3) as figure:
        axes = figure.subplot_mosaic([["given", "cam"], ["bars", "bars"]], height_ratios=[3, 2])
        titles = {"given": f"a {names[example.label]}", "cam": f"what speaks for {names[answer.top[0][0]]}"}
        for (name, title), picture in zip(titles.items(), (crop, over), strict=True):
            axes[name].imshow(picture)
            axes[name].set_title(title)
            axes[name].axis("off")
        ax, shares = axes["bars"], [100 * share for _, share in answer.top]
        ax.barh(range(len(shares)), shares, color=[BARS[i > 0] for i in range(len(shares))])
        ax.set_yticks(range(len(shares)), [names[i] for i, _ in answer.top])
        for place, share in enumerate(shares):
            ax.text(share + 1, place, f"{share:.1f}%", va="center")
        ax.set_xlim(0, 115)
        ax.invert_yaxis()
        ax.xaxis.set_visible(False)
        ax.grid(False)
        figure.savefig(path)


def page(network: Network, index: int, path: Path) -> None:
    """The page of ``alexnet demo`` after example ``index`` was chosen."""
    from playwright.sync_api import sync_playwright

    server = serve(network, port=0)
    try:
        with sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 1000, "height": 1000})
            view.set_default_timeout(300_000)
            view.goto(server.url)
            view.locator(".examples .grid-container button").nth(index).click()
            view.wait_for_selector(".near")
            view.screenshot(path=path)
            browser.close()
    finally:
        server.close()
    Image.open(path).convert("RGB").save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run's folder, or a file of weights in one")
    parser.add_argument("--data", default="digits", help="what it was trained on (default digits)")
    parser.add_argument("--index", type=int, default=4, help="which of the demo's ten examples is shown (default 4)")
    parser.add_argument("--only", choices=PICTURES, nargs="+", default=PICTURES, help="draw these; by default all")
    args = parser.parse_args()
    network = Network(load_model(args.run), datasets.load(args.data), device="cpu")
    for name in args.only:
        path = HERE / f"inside-{name}.png"
        if name == "filters":
            filters(network, path)
        elif name == "image":
            image(network, network.examples()[args.index], path)
        else:
            page(network, args.index, path)
        print(f"{path.name}: {np.prod(Image.open(path).size):,} pixels, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
