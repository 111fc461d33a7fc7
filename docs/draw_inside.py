"""The three pictures of README that look inside the bundled network: docs/inside-*.png.

.venv/bin/python docs/draw_inside.py [--only filters]

The filters of conv1; docs/cat.jpg with the evidence for the most probable class; the page of ``alexnet demo`` with the
same photograph, as Debian's chromium shows it (by Playwright).

docs/cat.jpg is "Chelsea" by Stefan van der Walt (public domain, CC0), from scikit-image 0.26.0, saved as JPEG.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image

from alexnet import load_model
from alexnet.curves import COLOURS, canvas
from alexnet.data.images import open_image
from alexnet.model import AlexNet_2012
from alexnet.tools import explain
from alexnet.tools.demo import launch
from alexnet.tools.explain.draw import evidence_image
from alexnet.tools.filters import filter_sheet

HERE = Path(__file__).resolve().parent
PHOTO = HERE / "cat.jpg"
SIDE = 5.6  # inches of 100 pixels


def draw_filters(model: AlexNet_2012, path: Path) -> None:
    """All filters of conv1 in their order, each scaled by itself."""
    sheet = filter_sheet(model.features.conv1.weight, columns=6)
    scale = int(100 * SIDE) // sheet.width
    sheet = sheet.resize((scale * sheet.width, scale * sheet.height), Image.Resampling.NEAREST)
    Image.alpha_composite(Image.new("RGBA", sheet.size, "white"), sheet.convert("RGBA")).convert("RGB").save(path)


def draw_image(model: AlexNet_2012, path: Path) -> None:
    """The photograph as the network sees it, the evidence for its answer, and its five most probable classes."""
    (found,) = explain.explain_images(model, [open_image(PHOTO)])
    names = model.info.classes
    evidence = evidence_image(found.view, found.evidence[0], explain.receptive_field(model, "relu5")).convert("RGB")
    with canvas(SIDE, SIDE * 2 / 3) as figure:
        axes = figure.subplot_mosaic([["view", "evidence"], ["bars", "bars"]], height_ratios=[3, 2])
        pictures = {"input": found.view, f"evidence for {names[found.top[0][0]]}": evidence}
        for name, (title, picture) in zip(("view", "evidence"), pictures.items(), strict=True):
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


def draw_demo(model: AlexNet_2012, path: Path) -> None:
    """The page of ``alexnet demo`` after the photograph was uploaded."""
    from playwright.sync_api import sync_playwright

    page = launch(model, device="cpu")
    try:
        with sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 1000, "height": 1000})
            view.set_default_timeout(300_000)
            view.goto(page.local_url)
            view.locator("input[type=file]").first.set_input_files(PHOTO)
            view.get_by_text("frog").nth(1).wait_for()  # a class of the header and of the answer
            view.wait_for_timeout(5_000)  # the pictures of the answer
            view.screenshot(path=path)
            browser.close()
    finally:
        page.close()
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    drawings = {"filters": draw_filters, "image": draw_image, "demo": draw_demo}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=drawings, nargs="+", default=list(drawings))
    model = load_model("cifar10-small")
    for name in parser.parse_args().only:
        path = HERE / f"inside-{name}.png"
        drawings[name](model, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
