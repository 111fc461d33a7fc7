"""Where images come from: CIFAR-10, scikit-learn's digits, a folder, or a data set on the Hugging Face hub.

``load`` turns a spec, as given to ``--data``, into a ``Dataset``: two or three splits of images with one list of class
names. Unusable data raise a ValueError of one line here, before any work.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
import socket
import stat
import sys
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from alexnet.data.images import ImageError, is_lfs_pointer, open_image
from alexnet.errors import FieldError, one_line, suggest
from alexnet.recipes import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Dataset", "Files", "ImageError", "Images", "Pixels", "describe", "hold_out", "load"]

ALLOWED = "cifar10, digits, a folder, or hf:NAME"
HELD_OUT_SEED = 0
ARRAY_LIMIT = 2 << 30  # bytes that `Images.array` may fill
READ_WHOLE, READ_OF_MORE = 1 << 30, 1000  # `fingerprint` reads all images up to so many bytes, else so many images
MAPPED_FROM = 1 << 30  # bytes of a split's Parquet files above which they are mapped, not read into memory
DOWNLOAD_TIMEOUT_S = 30.0  # without a byte
# Validation before test: the split that is used during training should not give the final result.
VAL_SPLITS = {"validation": "val", "val": "val", "valid": "val", "test": "test"}


# Where the images of a split are stored, in rows numbered from 0. ``read(row)`` gives an image as it is stored (pixels,
# or the content or path of an image file) and its name; ``listing(rows)`` gives, without reading images, the number of
# bytes of each, int64 [N], and the files' names.


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images: one uint8 array ``[N, H, W, 3]``."""

    array: np.ndarray
    title: str

    def read(self, row: int) -> tuple[np.ndarray, str]:
        return self.array[row], f"{self.title} row {row}"

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        return np.full(len(rows), self.array[0].nbytes), b""


@dataclass(frozen=True, eq=False)
class Files:
    """Image files on disk, all below ``folder``."""

    paths: Sequence[str]
    folder: str = ""

    def read(self, row: int) -> tuple[str, str]:
        return self.paths[row], self.paths[row]

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        paths = [self.paths[row] for row in rows]
        names = (os.fsencode(path.removeprefix(self.folder).replace(os.sep, "/")) for path in paths)
        found = [Path(path).stat() for path in paths]
        for path, each in zip(paths, found, strict=True):
            if not stat.S_ISREG(each.st_mode):  # such as a named pipe, which nobody may ever write to
                raise ImageError(f"{path}: not a regular file")
        return np.array([each.st_size for each in found], np.int64), b"\n".join(names)


@dataclass(frozen=True, eq=False)
class Table:
    """Image files in an Arrow column of structs {bytes, path}, as Parquet on the Hugging Face hub has them.

    ``parts`` are the first row and the name of each file that the column was read from. A row without bytes points to a
    file, which must lie in one of ``folders``: a data set must not read other files of this disk.
    """

    column: pa.ChunkedArray
    parts: Sequence[tuple[int, str]]
    folders: Sequence[str]

    def read(self, row: int) -> tuple[bytes | str, str]:
        value = self.column[row].as_py() or {}
        content, path = value.get("bytes"), value.get("path")
        first, title = self.parts[bisect_right(self.parts, row, key=lambda part: part[0]) - 1]
        name = f"{title} row {row - first}" + (f" ({path})" if path else "")
        if content is not None or not path:
            return content or b"", name
        for folder in self.folders:
            file = Path(folder, path).resolve()
            if file.is_relative_to(Path(folder).resolve()):
                return str(file), name
        raise ImageError(f"{name}: the row points to a file outside the data set")

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        import pyarrow as pa
        import pyarrow.compute as pc

        contents = pc.struct_field(self.column, "bytes")
        sizes = pc.fill_null(pc.binary_length(contents.cast(pa.large_binary())), -1).to_numpy().astype(np.int64)[rows]
        for place in np.flatnonzero(sizes < 0):
            source = self.read(int(rows[place]))[0]
            sizes[place] = Path(source).stat().st_size if isinstance(source, str) else len(source)
        return sizes, b""


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set. ``labels`` is int64 ``[N]``; the images are decoded when they are asked for."""

    labels: np.ndarray
    store: Pixels | Files | Table = field(repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)
    """int64 ``[N]``: the store's rows; all of them if None."""
    whole: Images | None = field(default=None, repr=False)
    """The images that this subset was taken from; their decoded pixels are used again."""

    def __len__(self) -> int:
        return len(self.labels)

    def _read(self, index: int) -> tuple[np.ndarray | bytes | str, str]:
        index = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        return self.store.read(index if self.rows is None else int(self.rows[index]))

    def name(self, index: int) -> str:
        """The file path, or the file and row, of image ``index``."""
        return self._read(index)[1]

    def image(self, index: int) -> Image.Image:
        """Image ``index`` as RGB. Raises ``ImageError``, which names the path or row."""
        source, name = self._read(index)
        return Image.fromarray(source) if isinstance(source, np.ndarray) else open_image(source, name)

    def encoded(self, index: int) -> bytes:
        """Image ``index`` as it is stored: the bytes of its file, or its pixels."""
        source, _ = self._read(index)
        if isinstance(source, np.ndarray):
            return source.tobytes()
        return source if isinstance(source, bytes) else Path(source).read_bytes()

    def subset(self, indices: Sequence[int] | np.ndarray) -> Images:
        """The images at ``indices``, in that order. Nothing is copied but the labels."""
        chosen = np.arange(len(self))[np.asarray(indices)] if len(indices) else np.zeros(0, np.int64)
        rows = chosen if self.rows is None else self.rows[chosen]
        whole = self.whole or (self if self.rows is None else None)
        return Images(self.labels[chosen], self.store, rows, whole)

    def array(self) -> np.ndarray | None:
        """All images as one uint8 array ``[N, H, W, 3]``, or None if their sizes differ or it would pass 2 GB.

        The array is kept, so a second call costs nothing. Raises ``ImageError`` on the first damaged image.
        """
        return self._array

    @functools.cached_property
    def _array(self) -> np.ndarray | None:
        if not len(self):
            return None
        decoded: np.ndarray | None = vars(self.whole).get("_array") if self.whole else None
        width, height = self.image(0).size if decoded is None else decoded.shape[2:0:-1]
        if len(self) * height * width * 3 > ARRAY_LIMIT:
            return None
        if decoded is not None:
            chosen: np.ndarray = decoded[self.rows]
            return chosen
        if isinstance(self.store, Pixels):
            return self.store.array if self.rows is None else self.store.array[self.rows]
        # In one thread: decoding a small image is mostly Python, and threads only compete for the interpreter's lock
        # (measured on CIFAR-10's JPEGs: 2.1 s in one thread, 3.6 s in two).
        out = np.empty((len(self), height, width, 3), np.uint8)
        for index in range(len(self)):
            image = self.image(index)
            if image.size != (width, height):
                return None
            out[index] = np.asarray(image)
        return out

    def fingerprint(self) -> bytes:
        """A digest of the labels and the images, in their order; see ``Dataset.fingerprints``."""
        sizes, names = self.store.listing(np.arange(len(self)) if self.rows is None else self.rows)
        digest = hashlib.sha256(names)
        digest.update(self.labels.astype("<i8").tobytes() + sizes.astype("<i8").tobytes())
        indices = np.arange(len(self))
        if sizes.sum() > READ_WHOLE:
            indices = np.linspace(0, len(self) - 1, min(READ_OF_MORE, len(self))).astype(int)
        for index in indices.tolist():
            digest.update(self.encoded(index))
        return digest.digest()


def hold_out(images: Images, part: float) -> tuple[Images, Images]:
    """Hold out one image in ``part`` of each class, always the same ones. A class of one image stays in training."""
    held = _stratified(part, images.labels, spare=1)
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))


def _stratified(part: float, labels: np.ndarray, spare: int) -> np.ndarray:
    """A mask: one in ``part`` of each class, at least one, but leaving ``spare`` of a class."""
    random = np.random.RandomState(HELD_OUT_SEED)  # the generator whose numbers NumPy promises never to change
    taken = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        taken[members[: min(max(1, round(len(members) / part)), len(members) - spare)]] = True
    return taken


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: its splits share ``classes``, and a label is an index into them."""

    spec: str
    name: str
    """For people: ``CIFAR-10``, ``digits``, the folder's name."""
    classes: tuple[str, ...]
    train: Images
    val: Images
    val_split: str
    """``test`` or ``val``, or ``holdout`` if it was cut from the training images."""
    flip: bool = True
    """Whether a mirrored image is still of its class; a mirrored digit is not."""
    test: Images | None = None
    """What a run is evaluated on once, at its end; None if ``val`` is the test set."""
    fewer: int | None = None
    """What ``with_fewer`` was called with."""
    notes: tuple[str, ...] = ()
    """Lines for the user, such as how many files of a folder are no images."""

    def eval_images(self, split: str) -> tuple[str, Images]:
        """The images of ``val`` or ``test``, and what they are called. ValueError if there are none."""
        if split == "test" and self.test is not None:
            return "test", self.test
        if split == "test" and self.val_split != "test":
            raise FieldError("split", f"val, because {self.name} has no test split", split)
        return self.val_split, self.val

    def prepare(self, recipe: Recipe) -> Dataset:
        """This data set as a recipe uses it: images held out, and fewer of the others."""
        dataset = self.with_holdout(recipe.holdout) if recipe.holdout else self
        if recipe.tta != "center" and dataset.test is None:
            raise FieldError("tta", "center, unless the data set has a test split or images are held out", recipe.tta)
        return dataset.with_fewer(recipe.images) if recipe.images else dataset

    def with_fewer(self, count: int) -> Dataset:
        """This data set with about ``count`` of its training images, always the same, with the share of each class."""
        if self.fewer == count:
            return self
        self._check_count("images", count)
        taken = _stratified(len(self.train) / count, self.train.labels, spare=0)
        return replace(self, train=self.train.subset(np.flatnonzero(taken)), fewer=count)

    def with_holdout(self, count: int) -> Dataset:
        """This data set with about ``count`` training images to validate on, always the same, with each class's share.

        One that has both a validation and a test split is returned as it is.
        """
        if self.test is not None:
            return self
        self._check_count("holdout", count)
        train, held = hold_out(self.train, len(self.train) / count)
        if not len(held):
            raise FieldError("holdout", f"0, because {self.name} has one training image per class", count)
        return replace(self, train=train, val=held, val_split="holdout", test=self.val)

    def _check_count(self, name: str, count: int) -> None:
        if not 0 < count < len(self.train):
            hints = {"holdout": "; with holdout 0 and tta center, none is held out", "images": "; images none uses all"}
            limit = f"less than {len(self.train):,}, the training images of {self.name}"
            raise FieldError(name, limit, count, hints[name])

    def fingerprint(self) -> str:
        """The first of ``fingerprints``."""
        return self.fingerprints()["fingerprint"]

    def fingerprints(self) -> dict[str, str]:
        """16 hexadecimal digits that identify images, wherever they are stored: ``fingerprint`` the whole data set;
        ``train_fingerprint``, ``val_fingerprint`` and, if there is one, ``test_fingerprint`` a split.

        They depend on the classes, and in each split on the labels, the order of the images, the sizes and names of
        image files (relative to the split) and their content: of all images, or of 1,000 at equal distances if a split
        has more than 1 GB. The content is not decoded, so versions of a decoder agree.

        Raises:
            ImageError: a row of a Parquet file holds no image.
            OSError: a file is gone or cannot be read.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogatepass"))
        found = {}
        for name, images in (("train", self.train), ("val", self.val), ("test", self.test)):
            part = images.fingerprint() if images else b""
            digest.update(part)
            if images:
                found[f"{name}_fingerprint"] = (digest.digest() if name == "train" else part).hex()[:16]
        return {"fingerprint": digest.hexdigest()[:16], **found}


# Specs


def load(spec: str, data_dir: str | Path = "data") -> Dataset:
    """Open the data set that ``spec`` names: ``cifar10``, ``digits``, a folder, or ``hf:NAME``.

    Args:
        data_dir: where ``cifar10`` is looked for, and downloaded to.

    Raises:
        ValueError: an unknown spec, or data that cannot be used as they are; one line.
        ConnectionError: ``cifar10`` is not on disk and could not be downloaded; one line.
    """
    return _checked(_open(spec, data_dir, download=True))


def describe(spec: str, data_dir: str | Path = "data") -> dict[str, Any]:
    """What is on disk for ``spec``: {"spec", "found", "where", "how"}. Downloads nothing.

    ``found`` is whether it can be loaded, ``where`` the path or None, ``how`` one line for people.
    """
    try:
        dataset = _checked(_open(spec, data_dir, download=False))
    except (ValueError, OSError) as error:
        return {"spec": spec, "found": False, "where": None, "how": str(error)}
    counts = f"{len(dataset.train):,} training images, {len(dataset.val):,} in {dataset.val_split}"
    counts += f", {len(dataset.test):,} in test" if dataset.test else ""
    how = f"{dataset.name}: {len(dataset.classes)} classes, {counts}"
    where = {"digits": "in scikit-learn", "cifar10": str(data_dir)}.get(spec, spec)
    return {"spec": spec, "found": True, "where": where, "how": how}


def _open(spec: str, data_dir: str | Path, *, download: bool) -> Dataset:
    path = data_dir if spec == "cifar10" else spec
    folder = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises an error for an unknown user)
    if spec == "digits":
        return _digits()
    if spec == "cifar10":
        return _cifar10(folder, download)
    if spec.startswith("hf:"):
        if not download:
            raise ValueError("the datasets library takes it from its cache, or downloads it, when it is used")
        return _hugging_face(spec)
    if spec and folder.is_dir():
        for files in (folder, folder / "data", folder / "plain_text"):
            if any(files.glob("train-*.parquet")):
                return _parquet_folder(spec, folder, files)
        if (folder / "train").is_dir():
            return _image_folder(spec, folder)
        raise _data_error(
            spec, "neither train-*.parquet (there, in data/ or in plain_text/) nor train/CLASS/*.jpg found"
        )
    reason = "a file" if folder.is_file() else "no such data set or folder"
    raise _data_error(spec, reason + suggest(spec.lower(), ("cifar10", "digits")))


def _data_error(spec: str, reason: str) -> FieldError:
    requirement = "a folder that can be trained on" if spec and Path(spec).is_dir() else ALLOWED
    return FieldError("data", requirement, spec, f" ({reason})")


def _used_splits(spec: str, found: Collection[str]) -> list[str]:
    """Of the splits that are there: train, one to validate on, and test."""
    val = [split for split in VAL_SPLITS if split in found and split != "test"]
    if len(val) > 1:
        raise _data_error(spec, f"{' and '.join(val)} are both there; keep the one to validate on")
    return [split for split in ("train", *val, "test") if split in found]


def _dataset(spec: str, name: str, classes: Mapping[str, tuple[str, ...]], images: Mapping[str, Images]) -> Dataset:
    """A data set of splits, whose classes must be the same if they are known.

    Where there is no split to validate on, a tenth of the training images is held out, and ``val_split`` says so.
    """
    for split, own in classes.items():
        if own and own != classes["train"]:
            extra = {"train": set(classes["train"]) - set(own), split: set(own) - set(classes["train"])}
            found = [f"{name} alone has {_listed(sorted(names))}" for name, names in extra.items() if names]
            difference = "; ".join(found) or "their order differs"
            raise _data_error(spec, f"train and {split} must have the same classes; {difference}")
    train, names = images["train"], classes["train"]
    if len(images) == 1:
        return Dataset(spec, name, names, *hold_out(train, 10), f"val (a tenth of train, seed {HELD_OUT_SEED})")
    val, test = [split for split in images if split != "train"], images["test"] if len(images) == 3 else None
    return Dataset(spec, name, names, train, images[val[0]], VAL_SPLITS[val[0]], test=test)


def _checked(dataset: Dataset) -> Dataset:
    """``dataset``, if one can train on it."""
    splits = {"train": dataset.train, dataset.val_split: dataset.val}
    if dataset.test is not None:
        splits["test"] = dataset.test
    for split, images in splits.items():
        if not len(images):
            one_each = "; no image can be held out, because each class has one" if split.startswith("val (") else ""
            raise _data_error(dataset.spec, f"the split {split} is empty{one_each}")
    count = len(dataset.classes)
    if count < 2:
        raise _data_error(dataset.spec, f"only one class, '{dataset.classes[0]}'; at least two are needed")
    if len(set(dataset.classes)) < count:
        name = next(name for name in dataset.classes if dataset.classes.count(name) > 1)
        raise _data_error(dataset.spec, f"two classes are called '{name}'")
    for images in splits.values():
        for index in np.flatnonzero((images.labels < 0) | (images.labels >= count))[:1]:
            reason = f"{images.name(index)}: label {images.labels[index]} is not in 0..{count - 1}"
            raise _data_error(dataset.spec, reason)
    notes = list(dataset.notes)
    for split, images in splits.items():
        if len(empty := np.flatnonzero(np.bincount(images.labels, minlength=count) == 0)):
            names = _listed([dataset.classes[i] for i in empty])
            if split == "train":
                raise _data_error(dataset.spec, f"no training image of {names}")
            notes.append(f"no image of {names} in {split}")
    return replace(dataset, notes=tuple(notes))


def _listed(names: Sequence[str]) -> str:
    """A list for an error message, cut short if it is long."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    every = Images(digits.target.astype(np.int64), Pixels(np.repeat(grey[..., None], 3, axis=3), "digits"))
    train, val = hold_out(every, 5)
    return Dataset("digits", "digits", tuple(map(str, digits.target_names)), train, val, "val", flip=False)


# CIFAR-10

HUB_REPO = "uoft-cs/cifar10"
HUB_FILES = ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet")
CIFAR10_IMAGES = 50_000
# MD5 sums of data_batch_1.bin to data_batch_5.bin, of test_batch.bin, and of the first image of all
TRAIN_MD5 = (
    "5dd7e06a14cb22eb9f671a540d1b7c25", "5ea93a67294ea407fff1d09f752e9692", "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb", "53f37980c15c3d472c316c40844f3f0d",
)  # fmt: skip
TEST_MD5 = ("803d5f7f4d78ea53de84dbe85f74fb6d",)
FIRST_MD5 = ("7498ec3214f887802a195993574a9714",)


def _cifar10(data_dir: Path, download: bool) -> Dataset:
    from filelock import FileLock

    if (dataset := _cifar10_on_disk(data_dir)) is not None:
        return dataset
    if not download:
        raise ValueError(f"CIFAR-10 is not in '{data_dir}'; it is downloaded when it is used (about 150 MB)")
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".cifar10.lock"):  # one process downloads; the others wait and find the files
        if (dataset := _cifar10_on_disk(data_dir)) is None:
            _download_cifar10(data_dir)
            dataset = _cifar10_on_disk(data_dir)
    assert dataset is not None
    return dataset


def _cifar10_on_disk(data_dir: Path) -> Dataset | None:
    """CIFAR-10, or None if it is missing or incomplete."""
    from torchvision.datasets import CIFAR10

    root = data_dir.resolve().parent if data_dir.resolve().name == CIFAR10.base_folder else data_dir
    with contextlib.suppress(RuntimeError):  # a file is missing or its MD5 sum is wrong
        train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
        images, held = (
            Images(np.array(split.targets, np.int64), Pixels(split.data, f"CIFAR-10 {name}"))
            for name, split in (("train", train), ("test", test))
        )
        return Dataset("cifar10", "CIFAR-10", tuple(train.classes), images, held, "test")
    copy = data_dir / "cifar10"
    if all((copy / name).is_file() for name in HUB_FILES):
        return _parquet_folder("cifar10", copy, copy / "plain_text")
    return None


def _download_cifar10(data_dir: Path) -> None:
    """Put CIFAR-10 under ``data_dir``: the hub's Parquet copy, or else the university's archive, by torchvision.

    Raises:
        ConnectionError: neither is available; one line says what was tried and how to bring it by hand.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    def from_the_hub() -> None:
        get_hf_file_metadata(hf_hub_url(HUB_REPO, HUB_FILES[0], repo_type="dataset"))  # no network: fails at once
        for name in HUB_FILES:
            hf_hub_download(HUB_REPO, name, repo_type="dataset", local_dir=data_dir / "cifar10")

    def from_the_university() -> None:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may be a JSON document
            CIFAR10(data_dir, download=True)

    sources = {constants.ENDPOINT: from_the_hub, CIFAR10.url: from_the_university}
    tried, before = [], socket.getdefaulttimeout()
    if check_integrity(data_dir / CIFAR10.filename, CIFAR10.tgz_md5):  # the archive was copied here by hand
        del sources[constants.ENDPOINT]
    elif constants.HF_HUB_OFFLINE:  # then contact no server at all
        sources, tried = {}, ["HF_HUB_OFFLINE is set"]
    else:
        print(f"downloading CIFAR-10 (about 150 MB) to '{data_dir}'", file=sys.stderr)
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision sets none, and would wait for ever
    try:
        for server, download in sources.items():
            try:
                return download()
            except Exception as error:  # each library has exceptions of its own, and of those that it is built on
                tried.append(f"{server}: {one_line(error)}")
    finally:
        socket.setdefaulttimeout(before)
    raise ConnectionError(
        f"CIFAR-10 is not in '{data_dir}' and could not be downloaded ({'; '.join(tried)}). Put {CIFAR10.filename} or "
        f"{CIFAR10.base_folder}/ there, or use digits or a folder of images as data"
    )


def _cifar10_name(dataset: Dataset) -> str | None:
    """The name of CIFAR-10 if these are its training images, pixel for pixel, and how its test images differ."""
    train, test = dataset.train, dataset.val
    if len(dataset.classes) != 10 or len(train) != CIFAR10_IMAGES or not _has_md5(train.subset([0]), FIRST_MD5):
        return None
    if not _has_md5(train, TRAIN_MD5):
        return None
    if _has_md5(test, TEST_MD5):
        return "CIFAR-10"
    jpegs = sum(test.encoded(index)[:2] == b"\xff\xd8" for index in range(len(test)))
    return f"CIFAR-10 ({jpegs} test images as JPEG)" if jpegs else "CIFAR-10 (test images differ)"


def _has_md5(images: Images, expected: Sequence[str]) -> bool:
    """Whether equal parts of the images, as CIFAR-10's binary files hold them, have these MD5 sums."""
    array = images.array()
    if array is None or array.shape[1:] != (32, 32, 3):
        return False
    for rows, md5 in zip(np.array_split(np.arange(len(array)), len(expected)), expected, strict=True):
        planes = array[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
        content = np.concatenate([images.labels[rows, None].astype(np.uint8), planes], axis=1)
        if hashlib.md5(content.tobytes(), usedforsecurity=False).hexdigest() != md5:
            return False
    return True


# A folder of image files, one folder a class

# What counts as an image in a class folder. HEIC cannot be read, but to leave it out silently would be worse.
IMAGE_FILE = re.compile(r"[^.].*\.(jpe?g|jpe|jfif|png|bmp|gif|webp|tiff?|p[bgp]m|jp2|avif|hei[cf])", re.I | re.S)
SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information", "__pycache__",
}  # fmt: skip


def _image_folder(spec: str, folder: Path) -> Dataset:
    splits = _used_splits(spec, [name for name in ("train", *VAL_SPLITS) if (folder / name).is_dir()])
    left_out: list[str] = []
    found = {split: _class_folders(folder / split, left_out) for split in splits}
    notes: list[str] = []
    unlabelled = "test" in found and not found["test"].keys() & found["train"].keys()
    if unlabelled and (len(splits) == 3 or len(found["test"]) < 2):  # else its classes may be misnamed
        del found["test"]
        notes.append(f"{folder / 'test'} is not used, because none of its folders is a class of train/")
    linked = Counter(os.path.realpath(path) for own in found.values() for path in chain(*own.values()))
    for path, uses in linked.most_common(1):
        if uses > 1:
            raise _data_error(spec, f"{path} is the folder of {uses} classes or splits; remove the links to it")
    for split, own in found.items():
        if not own:
            raise _data_error(spec, f"{split}/ has no folders; the images of each class must be in a folder of its own")
    images = {split: _class_files(folder / split, own, left_out) for split, own in found.items()}
    classes = {split: tuple(sorted(own)) for split, own in found.items()}
    if left_out:
        count = f"{len(left_out):,} files and folders"
        notes.append(f"ignored {count} that are not images of a class, such as {left_out[0]}")
    return replace(_dataset(spec, _display_name(folder), classes, images), notes=tuple(notes))


def _display_name(folder: Path) -> str:
    """The folder's name, unless its README says: quoted as "NAME"."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    quoted = re.search(r'quoted as\s+"([^"\n]+)"', text)
    return quoted[1] if quoted else folder.resolve().name


def _is_class(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def _class_folders(split: Path, left_out: list[str]) -> dict[str, list[Path]]:
    """The folders of each class. Names that look the same in two Unicode forms are one class."""
    found: dict[str, list[Path]] = {}
    for path in sorted(split.iterdir()):
        if path.is_dir() and _is_class(path.name):
            found.setdefault(unicodedata.normalize("NFC", path.name), []).append(path)
        else:
            left_out.append(str(path))
    return found


def _class_files(split: Path, classes: Mapping[str, Sequence[Path]], left_out: list[str]) -> Images:
    """The image files of a split, in order; what else is there is added to ``left_out``."""
    # Links are followed, but each real folder is visited once, and never a parent of the split.
    seen = {os.path.realpath(path) for path in (*chain(*classes.values()), split, *split.resolve().parents)}
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(sorted(classes)):
        for root in classes[name]:
            paths += _image_files(str(root), seen, left_out)
        labels += [label] * (len(paths) - len(labels))
    return Images(np.array(labels, np.int64), Files(paths, str(split)))


def _image_files(folder: str, seen: set[str], left_out: list[str]) -> list[str]:
    """The image files of a folder, then those of the folders in it."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            real = os.path.realpath(entry.path) if entry.is_dir() else None
            if real is not None and _is_class(entry.name) and real not in seen:
                seen.add(real)
                folders.append(entry.path)
            elif real is None and IMAGE_FILE.fullmatch(entry.name):
                files.append(entry.path)
            else:
                left_out.append(entry.path)
    return files + [path for inner in folders for path in _image_files(inner, seen, left_out)]


# Tables: Parquet files, and the datasets library's

LABELS = ("label", "labels", "fine_label")
SplitTable = tuple["pa.Table", Sequence[tuple[int, str]]]  # and the first row and the name of each of its files


def _parquet_folder(spec: str, folder: Path, files: Path) -> Dataset:
    paths = {split: sorted(files.glob(f"{split}-*.parquet")) for split in ("train", *VAL_SPLITS)}
    splits = _used_splits(spec, [split for split, own in paths.items() if own])
    tables = {split: _read_parquet(paths[split]) for split in splits}
    dataset = _from_tables(spec, _display_name(folder), tables, (str(files),))
    return replace(dataset, name=_cifar10_name(dataset) or dataset.name)


def _read_parquet(paths: Sequence[Path]) -> SplitTable:
    """A split's files, in memory or, if large, mapped from the copy that the datasets library makes.

    Parquet itself cannot be mapped: a row cannot be read without the hundreds or thousands around it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stated = re.search(r"-of-(\d+)(-[0-9a-f]+)?$", paths[0].stem)  # older names end with a hash
    if stated and int(stated[1]) != len(paths):
        raise ValueError(f"{paths[0]}: the split has {int(stated[1])} files, {len(paths)} of them are here")
    large = sum(path.stat().st_size for path in paths) > MAPPED_FROM
    tables, parts, rows = [], [], 0
    named: dict[tuple[str, ...], Path] = {}  # a file of each list of class names
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                named.setdefault(_class_names(file.schema_arrow), path)
                tables += [] if large else [file.read()]
                parts.append((rows, str(path)))
                rows += file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            with path.open("rb") as start:
                pointer = is_lfs_pointer(start.read(100))
            why = "a Git LFS pointer; `git lfs pull` fetches the file" if pointer else one_line(error)
            raise ValueError(f"{path}: not a whole Parquet file ({why})") from error
    named.pop((), None)
    if len(named) > 1:
        first, other, *_ = named.values()
        raise ValueError(f"{other}: the class names, or their order, differ from those of {first}")
    try:
        if large:
            import datasets

            escaped = [glob.escape(str(path)) for path in paths]  # the library treats paths as patterns
            return _arrow(datasets.Dataset.from_parquet(escaped)), parts
        return pa.concat_tables(tables, promote_options="default"), parts  # columns may be missing
    except Exception as error:  # the datasets library has exceptions of its own, around those of pyarrow
        raise ValueError(f"{paths[0]}: cannot be read ({one_line(error.__cause__ or error)})") from error


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    """The names of the classes; none if the file does not name them or has no labels."""
    try:
        return _columns("", schema)[2]
    except ValueError:
        return ()


def _arrow(split: Any) -> pa.Table:
    """The memory-mapped table of a split of the datasets library, with its features in the schema as in Parquet."""
    info = json.dumps({"info": {"features": split.features.to_dict()}})
    return split.with_format("arrow")[:].replace_schema_metadata({"huggingface": info})


def _hugging_face(spec: str) -> Dataset:
    name = spec.removeprefix("hf:")
    if not name:
        raise _data_error(spec, "hf: needs a name, such as hf:uoft-cs/cifar10")
    import datasets
    from huggingface_hub import constants

    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library, and the loader of each format, have exceptions of their own
        kind = ConnectionError if isinstance(error, ConnectionError | TimeoutError) else ValueError
        raise kind(f"data {spec!r}: {one_line(error)}") from error
    if "train" not in splits:
        raise _data_error(spec, f"no train split; there are {_listed(list(splits))}")
    caches = (constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE))
    tables = {split: (_arrow(splits[split]), [(0, f"{name} {split}")]) for split in _used_splits(spec, splits)}
    return _from_tables(spec, name, tables, (name, *caches))


def _from_tables(spec: str, name: str, tables: Mapping[str, SplitTable], folders: Sequence[str]) -> Dataset:
    images: dict[str, Images] = {}
    classes: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for split, (table, parts) in tables.items():
        try:
            images[split], classes[split] = _labelled(table, parts, folders)
        except _NoLabelsError:
            if split != "test":
                raise
            notes.append(f"the split test of {name} is not used, because it has no labels")
    if not classes["train"]:  # then they are the numbers from 0
        classes = {"train": tuple(map(str, range(len(np.unique(images["train"].labels)))))}
    return replace(_dataset(spec, name, classes, images), notes=tuple(notes))


class _NoLabelsError(ValueError):
    """A split has no label column, or no label in it."""


def _labelled(
    table: pa.Table, parts: Sequence[tuple[int, str]], folders: Sequence[str]
) -> tuple[Images, tuple[str, ...]]:
    """The images of a table, and the names of its classes, if known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    title = parts[0][1]
    image, label, classes = _columns(title, table.schema)
    column = table.column(label)
    if not pa.types.is_integer(column.type):
        raise ValueError(f"{title}: the column '{label}' must hold integers, holds {column.type}")
    labels = pc.fill_null(column.cast(pa.int64()), -1).to_numpy().astype(np.int64)
    if labels.max(initial=-1) < 0 < len(labels):
        raise _NoLabelsError(f"{title}: the column '{label}' holds no label")
    return Images(labels, Table(table.column(image), parts, folders)), classes


def _columns(title: str, schema: pa.Schema) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column and the class names, if known: by types, and where several fit, by names."""
    import pyarrow as pa

    kinds: dict[str, Any] = {}  # what the datasets library wrote about the columns: {"img": {"_type": "Image"}, ...}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # it did not, or the file is damaged
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    structs = [column.name for column in schema if pa.types.is_struct(column.type)]
    found = [name for name in structs if schema.field(name).type.get_field_index("bytes") >= 0]
    images = found if len(found) == 1 else [name for name in found if name in ("image", "img")]
    if len(images) != 1:
        raise ValueError(f"{title}: must have one image column (a struct with bytes), has {_listed(found) or 'none'}")
    labels = [name for name in LABELS if name in schema.names][:1]
    labels = labels or [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    if len(labels) != 1:
        raise _NoLabelsError(f"{title}: must have a column {', '.join(LABELS)}, has {_listed(schema.names)}")
    return images[0], labels[0], tuple(kinds.get(labels[0], {}).get("names") or ())
