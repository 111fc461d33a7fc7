"""The page: Gradio's components, and what happens when somebody uses them."""

from __future__ import annotations

import importlib.resources
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from alexnet.data.images import ImageError, open_image
from alexnet.report.html import png_uri, render
from alexnet.use import explain
from alexnet.use.demo.network import JUDGES, Answer, Near, Network
from alexnet.use.explain.pictures import map_picture, over_picture, thumbnail

__all__ = ["MAX_BYTES", "MAX_PIXELS", "build", "look"]

MAX_BYTES, MAX_PIXELS = 20 * 2**20, 50_000_000  # of an upload; phones make photographs of 12 to 50 million pixels
MAPS, THUMBNAIL = 16, 128
CHIPS = 40  # class names shown before the others are folded away
KEPT, SWEEP = 900, 60  # seconds that an upload lies on this machine's disk, and between two looks for such files
TICK = 1.0  # seconds between two looks at how far the index is


def look() -> dict[str, Any]:
    """What ``gr.mount_gradio_app`` has to be given for the page to look as it should, without a font from elsewhere."""
    system, mono = (gr.themes.Font(name) for name in ("system-ui", "ui-monospace"))
    theme = gr.themes.Soft(
        primary_hue="blue", font=[system, gr.themes.Font("sans-serif")], font_mono=[mono, gr.themes.Font("monospace")]
    )
    css = importlib.resources.files("alexnet.report").joinpath("templates/demo/style.css").read_text("utf-8")
    return {"theme": theme, "css": css, "footer_links": [], "run_history": False}


@dataclass
class Asked:
    """How many pictures a visitor has shown. What is still being done for an earlier one then ends."""

    number: int = 0


class Page:
    """What the components call, and the HTML that they get."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.names = [name.strip() or f"(class {i}, without a name)" for i, name in enumerate(network.card.classes)]
        self.field = explain.receptive_field(network.model, "relu5")

    # components call these

    def upload(self, file: dict[str, Any] | None, asked: Asked) -> tuple[Any, str, np.ndarray | None]:
        """The answer to an uploaded file: the picture shown, HTML, and the crop for what comes after."""
        asked.number += 1
        path = Path((file or {}).get("path") or "")
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ImageError(f"{path.name}: too large; the limit is {MAX_BYTES / 2**20:.0f} MB")
            picture = open_image(path.read_bytes(), path.name, most_pixels=MAX_PIXELS)
        except (ImageError, OSError) as error:
            return None, _without_answer(str(error)), None
        return gr.skip(), *self._answer(picture, None)

    def example(self, draw: int, asked: Asked, chosen: gr.SelectData) -> tuple[Any, str, np.ndarray]:
        """The answer to an example of the gallery."""
        asked.number += 1
        example = self.network.examples(draw)[int(chosen.index)]
        return example.picture, *self._answer(example.picture, example.label)

    def others(self, draw: int) -> tuple[list[tuple[Image.Image, str]], int]:
        """Other examples for the gallery, and their number."""
        return self.gallery(draw + 1), draw + 1

    def gallery(self, draw: int) -> list[tuple[Image.Image, str]]:
        return [(each.picture, self.names[each.label][:40]) for each in self.network.examples(draw)]

    def maps(self, crop: np.ndarray | None, layer: str) -> str:
        """The maps of a layer that answer most."""
        if crop is None or layer not in explain.convolutions(self.network.model):
            return ""
        maps = self.network.maps(crop, layer)
        peaks = maps.amax((1, 2))
        chosen = peaks.argsort(descending=True)[:MAPS].tolist()
        scale = max(float(maps[chosen].abs().max()), 1e-12)
        shown = [{"channel": i, "picture": png_uri(map_picture(maps[i], scale))} for i in chosen]
        return render("demo/maps.html", layer=layer, shown=shown, count=len(maps), side=maps.shape[-1], scale=scale)

    def neighbours(self, crop: np.ndarray | None, asked: Asked) -> Iterator[str]:
        """The nearest training images, or how far they have been looked at until they are known."""
        network, number = self.network, asked.number
        if crop is None:
            yield ""
            return
        while not network.index_ended:
            whole = f"{len(network.training or ()):,}"
            yield _waiting(f"Looking at the training images: {network.indexed:,} of {whole}. The nearest come here.")
            time.sleep(TICK)
            if asked.number != number:  # another picture has been shown since
                return
        found = network.neighbours(crop)
        yield self._near(*found) if found else _waiting(f"No nearest training images: {network.why_no_index}.")

    # what they answer

    def knows(self) -> str:
        network, card = self.network, self.network.card
        weights = sum(weight.numel() for weight in network.model.parameters())
        facts = [f"variant {card.variant}", f"{weights:,} weights", f"trained on {card.data}"]
        accuracy, step = card.record.get("val_acc, %"), card.record.get("step")
        if isinstance(accuracy, float) and isinstance(step, int):
            facts.append(f"{accuracy:.1f}% of the validation images right at step {step:,}")
        return render("demo/knows.html", title="AlexNet (2012)", facts=facts, classes=self.names, few=CHIPS)

    def _answer(self, picture: Image.Image, truth: int | None) -> tuple[str, np.ndarray]:
        found = self.network.answer(picture)
        return self._drawn(found, truth), found.crop

    def _drawn(self, found: Answer, truth: int | None) -> str:
        first, crop = found.top[0][0], Image.fromarray(found.crop)
        top = [
            {
                "name": self.names[index],
                "share": share,
                "peak": float(cam.max()),
                "cam": png_uri(over_picture(crop, cam, self.field)),
            }
            for (index, share), cam in zip(found.top, found.cams, strict=True)
        ]
        copies = [
            {"what": what, "name": self.names[best], "share": share, "same": best == first}
            for what, best, share in found.copies
        ]
        mirrors = self.network.dataset.flip if self.network.dataset else True
        return render(
            "demo/answer.html",
            top=top,
            crop=png_uri(crop),
            size=len(found.crop),
            truth=None if truth is None else self.names[truth],
            right=truth == first,
            copies=copies,
            agree=all(each["same"] for each in copies if mirrors or each["what"] != "mirrored"),
            mirrors=mirrors,
        )

    def _near(self, deep: Near, flat: Near, farther: float) -> str:
        network = self.network
        training, dataset = network.training, network.dataset
        assert training
        assert dataset

        def images(near: Near) -> list[dict[str, Any]]:
            return [
                {
                    "picture": png_uri(thumbnail(training.image(index), THUMBNAIL)),
                    "name": self.names[int(training.labels[index])],
                    "distance": distance,
                }
                for index, distance in zip(near.indices, near.distances, strict=True)
            ]

        rows = [
            {
                "what": "Nearest for the network",
                "note": f"By the {network.model.variant.widths[-1]:,} numbers of fc7, its last hidden layer, where "
                "things of a kind should lie together. Below each its distance.",
                "images": images(deep),
            },
            {
                "what": "Nearest in pixels",
                "note": "By the picture itself, at 32×32. Below each the root of the mean squared difference in grey "
                "levels, 0 to 255.",
                "images": images(flat),
            },
        ]
        count, whole = f"{len(training):,}", f"{len(dataset.train):,}"
        of = f"all {whole}" if count == whole else f"{count} of the {whole}"
        split = "validation" if dataset.val_split == "val" else dataset.val_split
        return render(
            "demo/neighbours.html",
            waiting="",
            rows=rows,
            farther=farther,
            judges=f"{min(JUDGES, len(dataset.val))} {split}",
            among=f"Among {of} training images of {dataset.name}.",
        )


def _without_answer(error: str = "") -> str:
    """What stands there at first, or why there is no answer, in one line."""
    return render("demo/empty.html", error=error)


def _waiting(text: str) -> str:
    return render("demo/neighbours.html", waiting=text)


_TO_THE_ANSWER = """() => {
  if (matchMedia("(max-width: 40rem)").matches) document.querySelector(".answer")?.scrollIntoView({behavior: "smooth"});
}"""  # on a phone it stands below what was chosen from


def build(network: Network) -> gr.Blocks:
    """The page of one network. Nothing of it can be called from a program, and nothing is sent anywhere."""
    page = Page(network)
    with gr.Blocks(title="AlexNet (2012)", analytics_enabled=False, delete_cache=(SWEEP, KEPT)) as blocks:
        gr.HTML(page.knows(), apply_default_css=False)
        crop, draw, asked = gr.State(None), gr.State(0), gr.State(Asked())
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photo = gr.Image(
                    sources=["upload", "webcam", "clipboard"],
                    type="filepath",
                    image_mode=None,
                    format="png",
                    label="An image",
                    height=320,
                    buttons=[],
                    elem_classes="photo",
                )
                gallery = gr.Gallery(
                    page.gallery(0),
                    format="png",
                    label="Examples",
                    columns=5,
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=bool(page.gallery(0)),
                    elem_classes="examples",
                )
                others = gr.Button("Other examples", size="sm", visible=network.dataset is not None)
            with gr.Column(scale=3, min_width=320):
                answer = gr.HTML(_without_answer(), apply_default_css=False)
        with gr.Column(elem_classes="below"):  # which is seen where there is an answer
            gr.HTML('<div class="alexnet"><h2>What its layers answer</h2></div>', apply_default_css=False)
            layers = list(explain.convolutions(network.model))
            layer = gr.Radio(layers, value="conv1", show_label=False, container=False)
            maps = gr.HTML("", apply_default_css=False)
            near = gr.HTML("", apply_default_css=False)

        def on(event: Any, *arguments: Any, **options: Any) -> Any:
            return event(*arguments, api_visibility="private", show_progress="hidden", **options)

        told = [photo, answer, crop]
        shown = [
            # preprocess=False: Gradio would decode the file itself, of any size, before it is looked at here
            on(photo.upload, page.upload, [photo, asked], told, preprocess=False, trigger_mode="always_last"),
            on(gallery.select, page.example, [draw, asked], told, trigger_mode="always_last"),
        ]
        for event in shown:  # the answer first, then what takes longer
            on(event.then, None, js=_TO_THE_ANSWER)
            on(event.then, page.maps, [crop, layer], maps)
            on(event.then, page.neighbours, [crop, asked], near, concurrency_limit=None)
        on(layer.change, page.maps, [crop, layer], maps)
        on(others.click, page.others, [draw], [gallery, draw])
        # In the browser: the way to the server and back could overtake the image that is pasted next.
        on(photo.clear, None, None, answer, js=f"() => {json.dumps(_without_answer())}")
    return blocks  # type: ignore[no-any-return]
