"""One network and its data, asked about one picture at a time by whoever looks at the page."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet import hardware
from alexnet.data.normalization import normalized
from alexnet.data.splits import Dataset, Images
from alexnet.data.transforms import as_array, central_patch
from alexnet.model import AlexNet_2012
from alexnet.use import explain
from alexnet.use.evaluate import card_of, check_classes
from alexnet.use.explain.images import fixed_choice, from_data

__all__ = ["Answer", "Example", "Near", "Network"]

SHOWN = 5  # classes an answer
EXAMPLES = 10
NEIGHBOURS = 6
JUDGES = 200  # validation images whose distances say what is usual
BLOCK = 32  # images that an answer may have to wait for


@dataclass(frozen=True)
class Example:
    """An image of the data set to try."""

    picture: Image.Image
    label: int


@dataclass(frozen=True)
class Answer:
    """What the network makes of a picture."""

    crop: np.ndarray
    """uint8 ``[S, S, 3]``: the part of the picture that it is given."""
    top: list[tuple[int, float]]
    """Classes and probabilities (0 to 1), the most probable first."""
    cams: Tensor
    """float32 ``[len(top), 13, 13]``: Grad-CAM of each of them at conv5, with its sign."""
    copies: list[tuple[str, int, float]]
    """The picture and two copies: what was done to it, the most probable class, and the probability of ``top[0]``."""


@dataclass(frozen=True)
class Near:
    """The training images nearest to a picture in one of two spaces, the nearest first."""

    indices: list[int]
    distances: list[float]


class Network:
    """A model that ``load_model`` gave, with the data set it was trained on if that is at hand.

    One picture is looked at at a time, whoever asks: the cores are shared anyway, and what reads a layer's output
    stands in the layer for a moment. The training images are looked at once, in blocks between two pictures.

    Args:
        examples: to try, where there is no data set to take them from.
        count: training images among which neighbours are looked for; a fixed choice of them, or all.

    Raises:
        ValueError: a data set of other classes; a device that is not present.
    """

    def __init__(
        self,
        model: AlexNet_2012,
        dataset: Dataset | None = None,
        examples: Sequence[Example] = (),
        *,
        count: int = 10_000,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.card, self.size = card_of(model), model.variant.image_sizes[0]
        if dataset:
            check_classes(dataset, self.card.classes)
        self.device = hardware.pick_device(device)
        self.precision = hardware.pick_precision(precision, self.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.dataset, self.given = dataset, tuple(examples)
        self.training = fixed_choice(dataset.train, count) if dataset and count else None
        self.indexed = 0
        """Training images looked at so far."""
        self.index_ended = self.training is None
        self.why_no_index = "" if self.training else "neighbours were switched off" if dataset else "no training images"
        self._next, self._busy, self._stopped = threading.Lock(), threading.Lock(), threading.Event()
        self._features: explain.Features | None = None
        self._usual: Tensor | None = None

    # what is asked of it

    def answer(self, picture: Image.Image) -> Answer:
        """The five most probable classes, where the picture speaks for each, and the same asked of two copies."""
        crop = np.asarray(explain.seen(self.model, picture))
        corner = as_array(central_patch(self.card.normalization.resize)(picture)[:, : self.size, : self.size])
        moved = f"moved {round((256 - self.size) / 2)} pixels to the right and down"
        views = {"as it is": crop, "mirrored": crop[:, ::-1], moved: corner}
        with self._turn():
            x = self._inputs(list(views.values()))
            with torch.inference_mode(), hardware.autocast(self.device, self.precision):
                probabilities = self.model(x).float().softmax(1).cpu()
            found = probabilities[0].topk(min(SHOWN, self.card.num_classes))
            cams = explain.grad_cam(self.model, x[:1].expand(len(found.indices), -1, -1, -1), found.indices).cpu()
        first = int(found.indices[0])
        copies = [
            (name, int(each.argmax()), float(each[first])) for name, each in zip(views, probabilities, strict=True)
        ]
        return Answer(crop, list(zip(found.indices.tolist(), found.values.tolist(), strict=True)), cams, copies)

    def maps(self, crop: np.ndarray, layer: str) -> Tensor:
        """What a convolution answers to a picture's crop, before its ReLU: float32 ``[channels, H, W]``."""
        with self._turn():
            return explain.activations(self.model, self._inputs([crop]))[layer][0].cpu()

    def neighbours(self, crop: np.ndarray) -> tuple[Near, Near, float] | None:
        """The training images nearest in the space of fc7 and in pixels; None until ``index`` has ended.

        The third is the share (0 to 1) of validation images whose nearest training image in fc7 is nearer than this
        picture's: near 1, the picture lies farther from all training images than images of the data set do.
        """
        known, usual = self._features, self._usual
        if known is None or usual is None:
            return None
        with self._turn():
            own = explain.features_of_inputs(self.model, self._inputs([crop]), precision=self.precision)
        deep, flat = (
            Near(places[0].tolist(), distances[0].tolist())
            for distances, places in (
                explain.nearest(own.fc7, known.fc7, NEIGHBOURS),
                explain.nearest(own.pixels, known.pixels, NEIGHBOURS),
            )
        )
        return deep, flat, float((usual < deep.distances[0]).float().mean())

    def examples(self, draw: int = 0) -> list[Example]:
        """Ten images to try, of as many classes as there are; other ones for each ``draw``."""
        if not self.dataset:
            return list(self.given)
        chosen = from_data(self.dataset, EXAMPLES, draw)
        return [Example(each.picture, each.truth) for each in chosen if each.picture and each.truth is not None]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The network to oneself. Who waits for it stands in the door, so that nobody gets it twice before him."""
        with self._next:
            self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()

    def _inputs(self, crops: Sequence[np.ndarray]) -> Tensor:
        return normalized([np.ascontiguousarray(crop) for crop in crops], self.card.normalization, self.device)

    # the training images

    def start(self) -> None:
        """Answer once, for a first answer is slow, and begin to look at the training images in the background."""
        self.answer(Image.new("RGB", (self.size, self.size), "grey"))
        if not self.index_ended:
            threading.Thread(target=self._index, name="neighbours", daemon=True).start()

    def stop(self) -> None:
        """Let the training images be."""
        self._stopped.set()

    def _index(self) -> None:
        assert self.training
        assert self.dataset
        try:
            known = self._look_at(self.training)
            own = self._look_at(fixed_choice(self.dataset.val, JUDGES))
            self._usual = explain.nearest(own.fc7, known.fc7, 1)[0][:, 0]
            self._features = known
        except _StoppedError:
            pass
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # a damaged image; memory that is out
            self.why_no_index = " ".join(str(error).split())
        self.index_ended = True

    def _look_at(self, images: Images) -> explain.Features:
        """The vectors of the images, a block at a time; whoever waits with a picture comes before the next block."""
        parts = []
        for first in range(0, len(images), BLOCK):
            if self._stopped.is_set():
                raise _StoppedError
            block = images.subset(np.arange(first, min(first + BLOCK, len(images))))
            with self._turn():
                parts.append(explain.features(self.model, block, precision=self.precision))
            if images is self.training:
                self.indexed += len(block)
        return explain.Features(torch.cat([part.fc7 for part in parts]), torch.cat([part.pixels for part in parts]))


class _StoppedError(Exception):
    """Nobody needs the training images any more."""
