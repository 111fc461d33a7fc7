"""A data set: two splits of labels and images, and what is asked of them: decoded, a part, held out, which they are."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from alexnet.data.stores import Pixels, Store

HELD_OUT_SEED = 0
ARRAY_LIMIT = 2 << 30  # bytes that `Images.array` may fill
# `fingerprint` reads the images of a split whole up to this many bytes, and of more this many, at equal distances.
_READ_WHOLE = 1 << 30
_READ_OF_MORE = 1000


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set. `labels` is int64 [N]; the images are decoded when they are asked for.

    It can be sent to a `DataLoader`'s workers: what `array` has decoded stays behind.
    """

    labels: np.ndarray
    store: Store = field(repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)  # int64 [N]: the store's rows; all of them if None
    _decoded: dict[str, np.ndarray | None] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": {}}

    def _row(self, index: int) -> int:
        index = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        return index if self.rows is None else int(self.rows[index])

    def name(self, index: int) -> str:
        """The file path, or the file and row, of image `index`."""
        return self.store.name(self._row(index))

    def image(self, index: int) -> Image.Image:
        """Image `index` as RGB. Raises `ImageError`, which names the path or row."""
        with self.decoding(index) as image:
            return image.copy()

    def decoding(self, index: int) -> AbstractContextManager[Image.Image]:
        """`image` for the length of a block, in one thread among many; see `images.decoding`."""
        return self.store.decoding(self._row(index))

    def encoded(self, index: int) -> bytes:
        """Image `index` as it is kept: the bytes of its file, or its pixels."""
        return self.store.encoded(self._row(index))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """The images at `indices`, in that order. Nothing is copied but the labels."""
        chosen = np.arange(len(self))[np.asarray(indices)] if len(indices) else np.zeros(0, np.int64)
        return Images(self.labels[chosen], self.store, chosen if self.rows is None else self.rows[chosen])

    def array(self) -> np.ndarray | None:
        """All images as one uint8 array [N, H, W, 3], or None if their sizes differ or it would pass `ARRAY_LIMIT`.

        The array is kept, so a second call costs nothing. Raises `ImageError` on the first damaged image.
        """
        if not len(self):
            return None
        width, height = self.image(0).size
        if len(self) * height * width * 3 > ARRAY_LIMIT:
            return None
        if "array" not in self._decoded:
            if isinstance(self.store, Pixels):
                self._decoded["array"] = self.store.array if self.rows is None else self.store.array[self.rows]
            else:
                self._decoded["array"] = self._decode(height, width)
        return self._decoded["array"]

    def _decode(self, height: int, width: int) -> np.ndarray | None:
        # In one thread: decoding a small image is mostly Python, and threads only fight over the interpreter's lock
        # (measured on CIFAR-10's JPEGs: 2.1 s in one thread, 3.6 s in two).
        out = np.empty((len(self), height, width, 3), np.uint8)
        for index in range(len(self)):
            with self.decoding(index) as image:
                if image.size != (width, height):
                    return None
                out[index] = np.asarray(image)
        return out

    def fingerprint(self) -> bytes:
        """A digest of the labels and the images, in their order; see `Dataset.fingerprint`."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        sizes, names = self.store.listing(rows)
        digest = hashlib.sha256(names)
        digest.update(self.labels.astype("<i8").tobytes() + sizes.astype("<i8").tobytes())
        if sizes.sum() > _READ_WHOLE:
            rows = rows[np.linspace(0, len(rows) - 1, min(_READ_OF_MORE, len(rows))).astype(int)]
        for row in rows.tolist():
            digest.update(self.store.encoded(row))
        return digest.digest()


def hold_out(images: Images, part: float) -> tuple[Images, Images]:
    """Split off one image in `part` of each class, always the same ones. A class of one image stays in training."""
    held = _one_in(part, images.labels, spare=1)
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))


def _one_in(part: float, labels: np.ndarray, spare: int) -> np.ndarray:
    """Which images are taken: one in `part` of each class, at least one, but never the last `spare` of a class."""
    random = np.random.RandomState(HELD_OUT_SEED)  # the generator whose numbers NumPy promises never to change
    taken = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        taken[members[: min(max(1, round(len(members) / part)), len(members) - spare)]] = True
    return taken


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: `train` and `val` share `classes`, and a label is an index into them."""

    spec: str
    name: str  # for people: "CIFAR-10", "digits", the folder's name
    classes: tuple[str, ...]
    train: Images
    val: Images
    val_split: str  # "test" or "val"; where it was cut from the training images, how
    flip: bool = True  # whether a mirrored image is still of its class; a mirrored digit is not
    test: Images | None = None  # what a run opens once, at its end: where `val` is not what it is judged by

    def eval_images(self, split: str) -> tuple[str, Images]:
        """The images of ``--split`` ``val`` or ``test``, and what they are called. ValueError where there are none."""
        if split == "test" and self.test is not None:
            return "test", self.test
        if split == "test" and self.val_split != "test":
            raise ValueError(
                f"--split test: {self.name} has only the split {self.val_split} to judge by; allowed is val"
            )
        return self.val_split, self.val

    def as_in(self, holdout: int = 0, images: int | None = None, *, flip: bool = True) -> "Dataset":
        """This data set as a recipe with these values has it."""
        dataset = self.with_holdout(holdout) if holdout else self
        dataset = dataset.with_fewer(images) if images else dataset
        return replace(dataset, flip=dataset.flip and flip)

    def with_fewer(self, count: int) -> "Dataset":
        """This data set with about `count` of its training images, of each class its share, always the same."""
        if not 0 < count < len(self.train):
            allowed = f"1 to {len(self.train) - 1}, for {self.name} has {len(self.train):,} training images"
            raise ValueError(f"--images {count}: allowed is {allowed}")
        taken = _one_in(len(self.train) / count, self.train.labels, spare=0)
        return replace(self, train=self.train.subset(np.flatnonzero(taken)))

    def with_holdout(self, count: int) -> "Dataset":
        """This data set with about `count` training images to validate on, of each class its share, always the same.

        One that has images to validate on and others to be judged by needs none held out: it is given as it is.
        """
        if self.test is not None:
            return self
        if not 0 < count < len(self.train):
            allowed = f"0 to {len(self.train) - 1}, for {self.name} has {len(self.train):,} training images"
            raise ValueError(f"--holdout {count}: allowed is {allowed}")
        train, held = hold_out(self.train, len(self.train) / count)
        if not len(held):
            raise ValueError(f"--holdout {count}: {self.name} has one training image a class, and keeps it")
        return replace(self, train=train, val=held, val_split="holdout", test=self.val)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that say which images these are, wherever they lie.

        It changes with the names and order of the classes, and in each split with the order of the images, a label, the
        size of an image's file, its name (in a folder of image files, relative to the split), and with its content: of
        all images where a split has 1 GB of them at most, else of 1,000 at equal distances. The content is what is
        kept, not the decoded pixels, so that two versions of a decoder agree; and so CIFAR-10 as Parquet is not
        CIFAR-10 as batches.

        Raises:
            ImageError: a row of a Parquet file holds no image.
            OSError: a file is gone or cannot be read.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogatepass"))
        for images in (self.train, self.val, self.test):
            digest.update(images.fingerprint() if images else b"")
        return digest.hexdigest()[:16]
