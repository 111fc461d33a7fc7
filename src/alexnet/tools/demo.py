"""``alexnet demo``: a local web page on which a trained network explains its answers to your images.

The page is a Gradio app. It listens on this machine only, unless ``host`` says otherwise, and sends nothing anywhere.
Answers are drawn as on the page of ``alexnet explain``.
"""

# No ``from __future__ import annotations``: Gradio reads the annotation of ``choose``, in which ``gr`` is a local name.

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL.Image import Image, new
from torch import Tensor

from alexnet.data.datasets import Dataset
from alexnet.data.images import ImageError, open_image
from alexnet.errors import FieldError
from alexnet.evaluate import check_classes, info_of
from alexnet.model import AlexNet_2012
from alexnet.system import pick_device
from alexnet.tools.explain import analysis
from alexnet.tools.explain.draw import draw_explanation, draw_neighbours
from alexnet.tools.html import render

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["Demo", "launch"]

MAX_FILE, MAX_PIXELS = "20mb", 50_000_000  # of an upload; phones take photographs of 12 to 50 million pixels
MAX_WAITING = 32  # visitors
KEEP, SWEEP = 900, 60  # seconds for which an upload is kept, and between two clean-ups
LOCAL = ("127.0.0.1", "::1", "localhost")  # elsewhere, visitors do not see the text of an unexpected error
BLOCK = 512  # training images between two reports of progress


class Demo:
    """What the page calls; each method returns HTML.

    Args:
        model: a network from ``load_model``.
        dataset: what it was trained on; without it, the page has no examples and no nearest training images.
        neighbours: number of training images among which the nearest ones are searched; 0: none are shown.
        device, precision: as in ``Runtime``.

    Raises:
        ValueError: a data set with other classes, or a device that is not available.
    """

    def __init__(
        self,
        model: AlexNet_2012,
        dataset: Dataset | None = None,
        *,
        neighbours: int = 10_000,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.info = info_of(model)
        if neighbours < 0:
            raise FieldError("neighbours", "0 or more", neighbours)
        if dataset:
            check_classes(dataset, self.info.classes)
        self.device, self.precision = pick_device(device), precision
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.dataset = dataset
        self.training = analysis.fixed_choice(dataset.train, neighbours) if dataset and neighbours else None
        self._known: list[analysis.Outputs] = []

    def header(self) -> str:
        """What the network knows."""
        return render("demo/header.html", info=self.info, weights=sum(w.numel() for w in self.model.parameters()))

    def examples(self) -> list[tuple[Image, str]]:
        """Ten validation images with their classes; none without a data set."""
        if not self.dataset:
            return []
        val = self.dataset.val
        names = [name.encode("utf-8", "replace").decode("utf-8") for name in self.info.classes]
        return [(val.image(i), names[val.labels[i]]) for i in analysis.choose_examples(self.dataset)]

    def answer(self, file: str | None) -> tuple[str, Tensor | None]:
        """The answer to an image file, and the image as the network's input ``[3, S, S]`` for ``nearest``."""
        if file is None:
            return render("demo/answer.html"), None
        try:
            picture = open_image(file, Path(file).name, max_pixels=MAX_PIXELS)
        except ImageError as error:
            return render("demo/answer.html", error=str(error)), None
        (found,) = analysis.explain_images(self.model, [picture])
        drawn = draw_explanation(self.model, found, self.info.classes)
        return render("demo/answer.html", found=drawn), found.input

    def nearest(self, image: Tensor | None) -> Iterator[str]:
        """The progress until all training images are computed, then the nearest ones."""
        if image is None or self.training is None:
            yield ""
            return
        count = len(self.training)
        while (known := sum(len(part.fc7) for part in self._known)) < count:
            progress = f"Computing fc7 of the training images: {known:,} of {count:,}. The nearest appear here."
            yield render("demo/neighbours.html", progress=progress)
            block = self.training.subset(np.arange(known, min(known + BLOCK, count)))
            self._known.append(analysis.collect_outputs(self.model, block, precision=self.precision))
        self._known = [analysis.concatenated(self._known)]
        own = analysis.outputs_of(self.model, image[None].to(self.device), precision=self.precision)
        (found,) = draw_neighbours(self.training, self.info.classes, self._known[0], own)
        yield render("demo/neighbours.html", found=found)

    def build(self) -> "gr.Blocks":
        """The page as a Gradio app."""
        import gradio as gr

        examples = self.examples()
        blocks = gr.Blocks(title="AlexNet (2012)", analytics_enabled=False, delete_cache=(SWEEP, KEEP))
        with blocks:
            gr.HTML(self.header(), apply_default_css=False)
            image = gr.State(None)
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    photo: Any = gr.Image(
                        type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], format="png",
                        label="Your image", height=320, buttons=[],
                    )  # fmt: skip
                    # the file as it was uploaded: open_image decodes it, or refuses it in its own words
                    photo.preprocess = lambda upload: upload and upload.path
                    gallery = gr.Gallery(
                        examples, format="png", label="Examples", columns=5, height="auto", object_fit="contain",
                        allow_preview=False, interactive=False, buttons=[], visible=bool(examples),
                        elem_classes="examples",
                    )  # fmt: skip
                with gr.Column(scale=3, min_width=320):
                    answer = gr.HTML(self.answer(None)[0], apply_default_css=False)
                    near = gr.HTML("", apply_default_css=False)

            def choose(chosen: gr.SelectData) -> Image:
                return examples[int(chosen.index)][0]

            quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
            gallery.select(choose, None, photo, **quiet)
            answered = photo.change(self.answer, photo, [answer, image], trigger_mode="always_last", **quiet)
            answered.success(self.nearest, image, near, trigger_mode="always_last", **quiet)
        blocks.queue(max_size=MAX_WAITING, api_open=False)
        return blocks


def launch(
    model: AlexNet_2012,
    dataset: Dataset | None = None,
    *,
    neighbours: int = 10_000,
    device: str = "auto",
    precision: str = "auto",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> "gr.Blocks":
    """Serve the page of ``Demo`` until the program ends.

    The returned app has its address, ``local_url``. Use ``block_thread()`` to wait for Ctrl-C and ``close()`` to stop.

    Args:
        host: the address to listen on; the default can be reached from this machine only.
        port: by default the first free one from 7860.

    Raises:
        ValueError: as ``Demo``, an invalid port, or Gradio is not installed.
        OSError: the address cannot be used, or the port is not free.
    """
    if port is not None and not 1 <= port <= 65535:
        raise FieldError("port", "1 to 65535", port)
    try:  # Gradio would try a hundred ports of an address that it cannot use
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port or 'any'}: {error.strerror}") from error
    demo = Demo(model, dataset, neighbours=neighbours, device=device, precision=precision)
    uploads = tempfile.mkdtemp(prefix="alexnet-demo-")  # readable by this user only
    atexit.register(shutil.rmtree, uploads, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = uploads  # read when a component is made
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise ValueError("the demo needs Gradio: pip install 'alexnet-2012[demo]'") from error

    text, code = gr.themes.Font("system-ui"), gr.themes.Font("ui-monospace")  # Gradio's own come from the web
    blocks = demo.build()
    analysis.explain_images(demo.model, [new("RGB", (8, 8))])  # the first one is slow
    blocks.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, share=False, quiet=True,
        show_error=host in LOCAL,
        max_file_size=MAX_FILE, theme=gr.themes.Soft(primary_hue="blue", font=[text], font_mono=[code]),
        css=render("demo/style.css"), footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False,
    )  # fmt: skip
    return blocks
