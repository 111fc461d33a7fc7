"""Where images come from: CIFAR-10, scikit-learn's digits, a folder, or a data set on the Hugging Face hub.

``load`` turns a spec, as given to ``--data``, into a ``Dataset``: two or three splits of images with one list of class
names. Whatever is wrong with the data as a whole is refused here, before any work, in one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from alexnet.data.images import ImageError, is_lfs_pointer, open_image
from alexnet.recipes import FieldError, Recipe, suggest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Dataset", "Files", "ImageError", "Images", "Pixels", "describe", "hold_out", "load"]

ALLOWED = "cifar10, digits, a folder, or hf:NAME"
HELD_OUT_SEED = 0
ARRAY_LIMIT = 2 << 30  # bytes that `Images.array` may fill
READ_WHOLE, READ_OF_MORE = 1 << 30, 1000  # `fingerprint` reads so many bytes of a split whole, of more so many images
MAPPED_FROM = 1 << 30  # bytes of a split's Parquet files above which they are mapped, not read into memory
DOWNLOAD_TIMEOUT_S = 30.0  # without a byte
# Validation before test: what steers a training run should not be what it is judged by in the end.
VAL_SPLITS = {"validation": "val", "val": "val", "valid": "val", "test": "test"}


# Splits


# Where the images of a split are kept until somebody asks for one, in rows numbered from 0. ``listing(rows)`` gives,
# without reading an image, the number of bytes of each, int64 [N], and the files' names.


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images: one uint8 array ``[N, H, W, 3]``."""

    array: np.ndarray
    title: str

    def name(self, row: int) -> str:
        return f"{self.title} row {row}"

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self.array[row])

    def encoded(self, row: int) -> bytes:
        return bytes(self.array[row].tobytes())

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        return np.full(len(rows), self.array[0].nbytes), b""


@dataclass(frozen=True, eq=False)
class Files:
    """Image files on disk, all below ``folder``."""

    paths: Sequence[str]
    folder: str = ""

    def name(self, row: int) -> str:
        return self.paths[row]

    def image(self, row: int) -> Image.Image:
        return open_image(self.paths[row])

    def encoded(self, row: int) -> bytes:
        return Path(self.paths[row]).read_bytes()

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        paths = [self.paths[row] for row in rows]
        names = (os.fsencode(path.removeprefix(self.folder).replace(os.sep, "/")) for path in paths)
        return np.array([Path(path).stat().st_size for path in paths], np.int64), b"\n".join(names)


@dataclass(frozen=True, eq=False)
class Table:
    """Image files in an Arrow column of structs {bytes, path}, as Parquet on the Hugging Face hub has them.

    ``starts`` are the first rows of the files that the column was read from, ``titles`` these files' names. A row
    without bytes points to a file, relative to ``folder``.
    """

    column: pa.ChunkedArray
    starts: Sequence[int]
    titles: Sequence[str]
    folders: Sequence[str]

    def name(self, row: int) -> str:
        return self._read(row)[1]

    def image(self, row: int) -> Image.Image:
        return open_image(*self._read(row))

    def encoded(self, row: int) -> bytes:
        source, _ = self._read(row)
        return source if isinstance(source, bytes) else source.read_bytes()

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        import pyarrow as pa
        import pyarrow.compute as pc

        contents = pc.struct_field(self.column, [self.column.type.get_field_index("bytes")])
        sizes = pc.fill_null(pc.binary_length(contents.cast(pa.large_binary())), -1).to_numpy().astype(np.int64)[rows]
        for place in np.flatnonzero(sizes < 0):
            sizes[place] = len(self.encoded(int(rows[place])))
        return sizes, b""

    def _read(self, row: int) -> tuple[bytes | Path, str]:
        """The content of a row, or the path of its file, and the row's name.

        The file must lie in one of ``folders``: the author of a data set must not choose any file of this disk.
        """
        value, part = self.column[row].as_py() or {}, bisect_right(self.starts, row) - 1
        content, path = value.get("bytes"), value.get("path")
        name = f"{self.titles[part]} row {row - self.starts[part]}" + (f" ({path})" if path else "")
        if content is not None or not path:
            return content or b"", name
        for folder in self.folders:
            file = Path(folder, path).resolve()
            if file.is_relative_to(Path(folder).resolve()):
                return file, name
        raise ImageError(f"{name}: the row points to a file outside the data set")


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set. ``labels`` is int64 ``[N]``; the images are decoded when they are asked for."""

    labels: np.ndarray
    store: Pixels | Files | Table = field(repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)
    """int64 ``[N]``: the store's rows; all of them if None."""
    _whole: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)  # of the store, once decoded
    _own: dict[str, np.ndarray | None] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def _row(self, index: int) -> int:
        index = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        return index if self.rows is None else int(self.rows[index])

    def name(self, index: int) -> str:
        """The file path, or the file and row, of image ``index``."""
        return self.store.name(self._row(index))

    def image(self, index: int) -> Image.Image:
        """Image ``index`` as RGB. Raises ``ImageError``, which names the path or row."""
        return self.store.image(self._row(index))

    def encoded(self, index: int) -> bytes:
        """Image ``index`` as it is kept: the bytes of its file, or its pixels."""
        return self.store.encoded(self._row(index))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Images:
        """The images at ``indices``, in that order. Nothing is copied but the labels."""
        chosen = np.arange(len(self))[np.asarray(indices)] if len(indices) else np.zeros(0, np.int64)
        rows = chosen if self.rows is None else self.rows[chosen]
        return Images(self.labels[chosen], self.store, rows, self._whole)

    def array(self) -> np.ndarray | None:
        """All images as one uint8 array ``[N, H, W, 3]``, or None if their sizes differ or it would pass 2 GB.

        The array is kept, so a second call costs nothing. Raises ``ImageError`` on the first damaged image.
        """
        if not len(self):
            return None
        width, height = self.image(0).size
        if len(self) * height * width * 3 > ARRAY_LIMIT:
            return None
        cache = self._whole if self.rows is None else self._own
        if "array" not in cache:
            cache["array"] = self._decode(height, width)
        return cache["array"]

    def _decode(self, height: int, width: int) -> np.ndarray | None:
        whole = self.store.array if isinstance(self.store, Pixels) else self._whole.get("array")
        if whole is not None:
            return whole if self.rows is None else whole[self.rows]
        # In one thread: decoding a small image is mostly Python, and threads only fight over the interpreter's lock
        # (measured on CIFAR-10's JPEGs: 2.1 s in one thread, 3.6 s in two).
        out = np.empty((len(self), height, width, 3), np.uint8)
        for index in range(len(self)):
            image = self.image(index)
            if image.size != (width, height):
                return None
            out[index] = np.asarray(image)
        return out

    def fingerprint(self) -> bytes:
        """A digest of the labels and the images, in their order; see ``Dataset.fingerprint``."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        sizes, names = self.store.listing(rows)
        digest = hashlib.sha256(names)
        digest.update(self.labels.astype("<i8").tobytes() + sizes.astype("<i8").tobytes())
        if sizes.sum() > READ_WHOLE:
            rows = rows[np.linspace(0, len(rows) - 1, min(READ_OF_MORE, len(rows))).astype(int)]
        for row in rows.tolist():
            digest.update(self.store.encoded(row))
        return digest.digest()


def hold_out(images: Images, part: float) -> tuple[Images, Images]:
    """Split off one image in ``part`` of each class, always the same ones. A class of one image stays in training."""
    held = _one_in(part, images.labels, spare=1)
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))


def _one_in(part: float, labels: np.ndarray, spare: int) -> np.ndarray:
    """Which images are taken: one in ``part`` of each class, at least one, but never the last ``spare`` of a class."""
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
    """``test`` or ``val``, or ``holdout`` where it was cut from the training images."""
    flip: bool = True
    """Whether a mirrored image is still of its class; a mirrored digit is not."""
    test: Images | None = None
    """What a run is evaluated on once, at its end; None where ``val`` is the test set."""
    notes: tuple[str, ...] = ()
    """Lines for the user, such as how many files of a folder are no images."""

    def eval_images(self, split: str) -> tuple[str, Images]:
        """The images of ``val`` or ``test``, and what they are called. ValueError where there are none."""
        if split == "test" and self.test is not None:
            return "test", self.test
        if split == "test" and self.val_split != "test":
            raise FieldError("split", f"val, for {self.name} has no test split", split)
        return self.val_split, self.val

    def prepare(self, recipe: Recipe) -> Dataset:
        """This data set as a recipe uses it: images held out, fewer of the others, mirrored or not."""
        dataset = self.with_holdout(recipe.holdout) if recipe.holdout else self
        dataset = dataset.with_fewer(recipe.images) if recipe.images else dataset
        return replace(dataset, flip=dataset.flip and any("flip" in name for name in recipe.augment))

    def with_fewer(self, count: int) -> Dataset:
        """This data set with about ``count`` of its training images, of each class its share, always the same."""
        self._check_count("images", count)
        taken = _one_in(len(self.train) / count, self.train.labels, spare=0)
        return replace(self, train=self.train.subset(np.flatnonzero(taken)))

    def with_holdout(self, count: int) -> Dataset:
        """This data set with about ``count`` training images to validate on, of each class its share, always the same.

        One that has both a validation and a test split is returned as it is.
        """
        if self.test is not None:
            return self
        self._check_count("holdout", count)
        train, held = hold_out(self.train, len(self.train) / count)
        if not len(held):
            raise FieldError("holdout", f"0, for {self.name} has one training image a class", count)
        return replace(self, train=train, val=held, val_split="holdout", test=self.val)

    def _check_count(self, name: str, count: int) -> None:
        if not 0 < count < len(self.train):
            raise FieldError(name, f"less than {len(self.train):,}, the training images of {self.name}", count)

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


# Specs


def load(spec: str, data_dir: str | Path = "data") -> Dataset:
    """Open the data set that ``spec`` names: ``cifar10``, ``digits``, a folder, or ``hf:NAME``.

    Args:
        data_dir: where ``cifar10`` is looked for, and downloaded to.

    Raises:
        ValueError: an unknown spec, or data that cannot be used as they are; one line.
        ConnectionError: ``cifar10`` is not on disk and could not be downloaded; one line.
    """
    if spec == "cifar10":
        return _checked(_cifar10(_expanded("data_dir", data_dir)))
    return _checked(_hugging_face(spec) if spec.startswith("hf:") else _without_network(spec))


def describe(spec: str, data_dir: str | Path = "data") -> dict[str, Any]:
    """What is on disk for ``spec``: {"spec", "found", "where", "how"}. Downloads nothing; ``how`` says what is wrong.

    ``found`` is whether it can be loaded as it is, ``where`` the path or None, ``how`` one line for people.
    """
    where, dataset = None, None
    try:
        if spec == "cifar10":
            data_dir = _expanded("data_dir", data_dir)
            how = f"not in '{data_dir}': downloaded when it is used (about 150 MB)"
            if found := _cifar10_on_disk(data_dir):
                dataset, where = found[0], str(found[1])
        elif spec.startswith("hf:"):
            how = "the datasets library takes it from its cache, or downloads it, when it is used"
        else:
            dataset = _without_network(spec)
            where = "in scikit-learn" if spec == "digits" else spec
        if dataset:
            _checked(dataset)
            counts = f"{len(dataset.train):,} training images, {len(dataset.val):,} in {dataset.val_split}"
            counts += f", {len(dataset.test):,} in test" if dataset.test else ""
            how = f"{dataset.name}: {len(dataset.classes)} classes, {counts}"
    except (ValueError, OSError) as error:
        dataset, where, how = None, None, str(error)
    return {"spec": spec, "found": dataset is not None, "where": where, "how": how}


def _expanded(name: str, path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{name} {str(path)!r}: there is no such user, or the user has no home") from None


def _without_network(spec: str) -> Dataset:
    if spec == "digits":
        return _digits()
    folder = _expanded("data", spec)
    if spec and folder.is_dir():
        for name in ("", "data", "plain_text"):
            if any((folder / name).glob("train-*.parquet")):
                return _parquet_folder(spec, folder, folder / name)
        if (folder / "train").is_dir():
            return _image_folder(spec, folder)
        raise _refused(spec, "neither train-*.parquet (there, in data/ or in plain_text/) nor train/CLASS/*.jpg found")
    if folder.is_file():
        raise _refused(spec, "a file")
    raise _refused(spec, f"no such data set or folder{suggest(spec.lower(), ('cifar10', 'digits'))}")


def _refused(spec: str, reason: str) -> FieldError:
    return FieldError("data", ALLOWED, spec, f" ({reason})")


def _checked(dataset: Dataset) -> Dataset:
    """``dataset``, if one can train on it."""
    splits = {"train": dataset.train, dataset.val_split: dataset.val}
    if dataset.test is not None:
        splits["test"] = dataset.test
    for split, images in splits.items():
        if not len(images):
            raise _refused(dataset.spec, f"the split {split} is empty")
    count = len(dataset.classes)
    if count < 2:
        raise _refused(dataset.spec, f"only one class, '{dataset.classes[0]}'; at least two are needed")
    for images in splits.values():
        outside = np.flatnonzero((images.labels < 0) | (images.labels >= count))
        if len(outside):
            first = int(outside[0])
            raise _refused(dataset.spec, f"{images.name(first)}: label {images.labels[first]} is not in 0..{count - 1}")
    empty = np.flatnonzero(np.bincount(dataset.train.labels, minlength=count) == 0)
    if len(empty):
        raise _refused(dataset.spec, f"no training image of {_some([dataset.classes[i] for i in empty])}")
    return dataset


def _some(names: Sequence[str]) -> str:
    """A list for an error message, cut short where it is long."""
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


def _cifar10(data_dir: Path) -> Dataset:
    from filelock import FileLock

    if found := _cifar10_on_disk(data_dir):
        return found[0]
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".cifar10.lock"):  # of several processes one downloads, the others find it done
        found = _cifar10_on_disk(data_dir)
        if found is None:
            _download_cifar10(data_dir)
            found = _cifar10_on_disk(data_dir)
    assert found is not None
    return found[0]


def _cifar10_on_disk(data_dir: Path) -> tuple[Dataset, Path] | None:
    """CIFAR-10 and the folder it was found in, or None where it is not there or not whole."""
    from torchvision.datasets import CIFAR10

    root = data_dir.resolve().parent if data_dir.resolve().name == CIFAR10.base_folder else data_dir
    with contextlib.suppress(RuntimeError):  # a file is missing or its MD5 sum is wrong
        train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
        images, held = (
            Images(np.array(split.targets, np.int64), Pixels(split.data, f"CIFAR-10 {name}"))
            for name, split in (("train", train), ("test", test))
        )
        return Dataset("cifar10", "CIFAR-10", tuple(train.classes), images, held, "test"), root / CIFAR10.base_folder
    copy = data_dir / "cifar10"
    if all((copy / name).is_file() for name in HUB_FILES):
        return replace(_parquet_folder("cifar10", copy, copy / "plain_text"), name="CIFAR-10"), copy
    return None


def _download_cifar10(data_dir: Path) -> None:
    """Put CIFAR-10 under ``data_dir``: the hub's Parquet copy, or else the university's archive, by torchvision.

    Raises:
        ConnectionError: neither is available; one line says what was tried and how to bring it by hand.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from torchvision.datasets import CIFAR10

    def from_the_hub() -> None:
        get_hf_file_metadata(hf_hub_url(HUB_REPO, HUB_FILES[0], repo_type="dataset"))  # no network: fails at once
        for name in HUB_FILES:
            hf_hub_download(HUB_REPO, name, repo_type="dataset", local_dir=data_dir / "cifar10")

    def from_the_university() -> None:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may be a JSON document
            CIFAR10(data_dir, download=True)

    sources = {constants.ENDPOINT: from_the_hub, CIFAR10.url: from_the_university}
    tried, before = [], socket.getdefaulttimeout()
    if (data_dir / CIFAR10.filename).is_file():  # somebody has carried the archive here
        del sources[constants.ENDPOINT]
    elif constants.HF_HUB_OFFLINE:  # then no other server is asked either
        sources, tried = {}, ["HF_HUB_OFFLINE is set"]
    else:
        print(f"downloading CIFAR-10 (about 150 MB) to '{data_dir}'", file=sys.stderr)
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision sets none, and would wait for ever
    try:
        for server, download in sources.items():
            try:
                return download()
            except Exception as error:  # each library has exceptions of its own, and of those that it is built on
                tried.append(f"{server}: {_one_line(error)[:200]}")
    finally:
        socket.setdefaulttimeout(before)
    raise ConnectionError(
        f"CIFAR-10 is not in '{data_dir}' and could not be downloaded ({'; '.join(tried)}). Put {CIFAR10.filename} or "
        f"{CIFAR10.base_folder}/ there, or use digits or a folder of images as data"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
    planes = array.transpose(0, 3, 1, 2).reshape(len(array), -1)
    content = np.concatenate([images.labels[:, None].astype(np.uint8), planes], axis=1)
    parts = np.array_split(content, len(expected))
    return [hashlib.md5(part.tobytes(), usedforsecurity=False).hexdigest() for part in parts] == list(expected)


# A folder of image files, one folder a class

# What counts as an image in a class folder. HEIC cannot be read, but to leave it out silently would be worse.
IMAGE_FILE = re.compile(r"[^.].*\.(jpe?g|jpe|jfif|png|bmp|gif|webp|tiff?|p[bgp]m|jp2|avif|hei[cf])", re.I | re.S)
SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information", "__pycache__",
}  # fmt: skip


def _image_folder(spec: str, folder: Path) -> Dataset:
    split = next((name for name in VAL_SPLITS if (folder / name).is_dir()), None)
    if split is None:
        raise _refused(spec, "train/ is there, but neither val/ nor test/")
    found = {"train": _class_folders(folder / "train"), split: _class_folders(folder / split)}
    if split != "test" and (folder / "test").is_dir():
        own = _class_folders(folder / "test")
        if own.keys() & found["train"].keys():  # one without folders of these classes has no labels
            found["test"] = own
    classes = sorted(found["train"])
    if not classes:
        raise _refused(spec, "train/ holds no class folders")
    for name, own in found.items():
        if classes != sorted(own):
            only = {"train": sorted(set(classes) - set(own)), name: sorted(set(own) - set(classes))}
            parts = [f"{_some(names)} only in {where}/" for where, names in only.items() if names]
            raise _refused(spec, f"train/ and {name}/ must have the same classes: {', '.join(parts)}")
    left_out: list[str] = []
    images = {name: _class_files(folder / name, own, classes, left_out) for name, own in found.items()}
    notes = (
        [f"left out {len(left_out):,} files and folders that are no images, such as {left_out[0]}"] if left_out else []
    )
    train, val, test = images["train"], images[split], images.get("test") if split != "test" else None
    return Dataset(
        spec, _display_name(folder), tuple(classes), train, val, VAL_SPLITS[split], test=test, notes=tuple(notes)
    )


def _display_name(folder: Path) -> str:
    """The folder's name, unless its README says: quoted as "NAME"."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    quoted = re.search(r'quoted as\s+"([^"\n]+)"', text)
    return quoted[1] if quoted else folder.resolve().name


def _is_class(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def _class_folders(split: Path) -> dict[str, list[Path]]:
    """The folders of each class. Names that look the same in two Unicode forms are one class."""
    found: dict[str, list[Path]] = {}
    for path in sorted(split.iterdir()):
        if path.is_dir() and _is_class(path.name):
            found.setdefault(unicodedata.normalize("NFC", path.name), []).append(path)
    return found


def _class_files(split: Path, folders: Mapping[str, Sequence[Path]], classes: list[str], left_out: list[str]) -> Images:
    """The image files of a split, in order; what else is there is added to ``left_out``."""
    left_out += [str(path) for path in sorted(split.iterdir()) if not (path.is_dir() and _is_class(path.name))]
    roots = [path for name in classes for path in folders[name]]
    # Links are followed, but each real folder is visited once, and none that holds these.
    seen = {os.path.realpath(path) for path in (*roots, split, *split.resolve().parents)}
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        before = len(paths)
        for root in folders[name]:
            paths += _walk(str(root), seen, left_out)
        if len(paths) == before:
            raise ValueError(f"{folders[name][0]}: the class has no images")
        labels += [label] * (len(paths) - before)
    return Images(np.array(labels, np.int64), Files(paths, str(split)))


def _walk(root: str, seen: set[str], left_out: list[str]) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for at, inner, files in os.walk(root, onerror=fail, followlinks=True):
        folders, inner[:] = sorted(inner), []
        for name in folders:
            real = os.path.realpath(os.path.join(at, name))  # noqa: PTH118 (a name may be no text)
            if _is_class(name) and real not in seen:
                seen.add(real)
                inner.append(name)
            else:
                left_out.append(f"{at}{os.sep}{name}")
        images = [name for name in files if IMAGE_FILE.fullmatch(name)]
        left_out += [f"{at}{os.sep}{name}" for name in sorted(set(files) - set(images))]
        yield from (f"{at}{os.sep}{name}" for name in sorted(images))


# Tables: Parquet files, and the datasets library's

LABELS = ("label", "labels", "fine_label")


def _parquet_folder(spec: str, folder: Path, files: Path) -> Dataset:
    paths = {split: sorted(files.glob(f"{split}-*.parquet")) for split in ("train", *VAL_SPLITS)}
    found = [split for split, own in paths.items() if own]
    if found == ["train"]:
        raise _refused(spec, "train-*.parquet is there, neither validation-*.parquet nor test-*.parquet")
    dataset = _from_tables(spec, _display_name(folder), lambda split: _read_parquet(paths[split]), found, (str(files),))
    return replace(dataset, name=_cifar10_name(dataset) or dataset.name)


def _read_parquet(paths: Sequence[Path]) -> dict[str, pa.Table]:
    """A split's files by path, in memory or, where large, mapped from the copy that the datasets library makes.

    Parquet itself cannot be mapped: a row cannot be read without the hundreds or thousands around it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stated = re.search(r"-of-(\d+)$", paths[0].stem)
    if stated and int(stated[1]) != len(paths):
        raise ValueError(f"{paths[0]}: the split has {int(stated[1])} files, {len(paths)} of them are here")
    large = sum(path.stat().st_size for path in paths) > MAPPED_FROM
    tables: dict[str, Any] = {}
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                tables[str(path)] = file.metadata.num_rows if large else file.read()
        except (OSError, pa.ArrowException) as error:
            with path.open("rb") as start:
                pointer = is_lfs_pointer(start.read(100))
            why = "a Git LFS pointer; `git lfs pull` fetches the file" if pointer else _one_line(error)
            raise ValueError(f"{path}: not a whole Parquet file ({why})") from error
    if large:
        first, whole = 0, _mapped(paths)
        for name, rows in tables.items():
            tables[name], first = whole.slice(first, rows), first + rows
    return tables


def _mapped(paths: Sequence[Path]) -> pa.Table:
    import datasets

    try:
        return _arrow(datasets.Dataset.from_parquet(list(map(str, paths))))
    except Exception as error:  # the library has exceptions of its own, around those of pyarrow and of the system
        raise ValueError(f"{paths[0]}: cannot be read ({_one_line(error.__cause__ or error)})") from error


def _arrow(split: Any) -> pa.Table:
    """The memory-mapped table of a split of the datasets library, with its features in the schema as in Parquet."""
    info = json.dumps({"info": {"features": split.features.to_dict()}})
    return split.with_format("arrow")[:].replace_schema_metadata({"huggingface": info})


def _hugging_face(spec: str) -> Dataset:
    name = spec.removeprefix("hf:")
    if not name:
        raise _refused(spec, "hf: needs a name, such as hf:uoft-cs/cifar10")
    import datasets
    from huggingface_hub import constants

    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library, and the loader of each format, have exceptions of their own
        kind = ConnectionError if isinstance(error, ConnectionError | TimeoutError) else ValueError
        raise kind(f"data {spec!r}: {_one_line(error)}") from error
    if "train" not in splits:
        raise _refused(spec, f"no train split; there are {_some(list(splits))}")
    caches = (constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE))
    read = {split: {f"{name} {split}": _arrow(table)} for split, table in splits.items()}
    return _from_tables(spec, name, read.__getitem__, list(splits), (name, *caches))


def _from_tables(
    spec: str, name: str, read: Callable[[str], dict[str, pa.Table]], found: Collection[str], folders: Sequence[str]
) -> Dataset:
    """A data set from Arrow tables: ``read(split)`` gives those of a split, by the names that error messages use.

    Where there is no split to validate on, a tenth of the training images is held out, and ``val_split`` says so.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    val = next((split for split in VAL_SPLITS if split in found), None)
    stores, labels, classes = {}, {}, {}
    for split in [split for split in ("train", *VAL_SPLITS) if split in found and split in ("train", val, "test")]:
        tables, optional = read(split), split == "test" != val  # of many test splits the labels were kept back
        title, first = next(iter(tables.items()))
        columns = _columns(first.schema)
        if isinstance(columns, str):
            if optional:
                continue
            raise ValueError(f"{title}: {columns}")
        image, label, classes[split] = columns
        try:
            table = pa.concat_tables([table.select([image, label]) for table in tables.values()])
        except (KeyError, pa.ArrowException) as error:
            raise ValueError(f"{title}: the split's files have different columns ({_one_line(error)})") from error
        column = table.column(label)
        if optional and pa.types.is_integer(column.type) and not pc.any(pc.greater_equal(column, 0)).as_py():
            continue  # the hub writes them as -1
        if not pa.types.is_integer(column.type) or column.null_count:
            what = f"{column.null_count} empty rows" if column.null_count else column.type
            raise ValueError(f"{title}: the column '{label}' must hold integers, holds {what}")
        starts = np.cumsum([0, *map(len, tables.values())]).tolist()
        stores[split] = Table(table.column(image), starts[:-1], list(tables), folders)
        labels[split] = column.to_numpy().astype(np.int64)
    names = next((own for own in classes.values() if own), ())
    for split, own in classes.items():
        if classes["train"] and own and own != classes["train"]:
            difference = _some(sorted(set(classes["train"]) ^ set(own))) or "their order"
            raise _refused(spec, f"train and {split} must have the same classes; they differ in {difference}")
    if not names:  # then the classes are the numbers
        numbers = np.unique(labels["train"])
        names = tuple(map(str, numbers))
        for split, own in labels.items():
            for row in np.flatnonzero(~np.isin(own, numbers))[:1]:
                raise _refused(spec, f"{stores[split].name(row)}: label {own[row]} does not occur in train")
            labels[split] = np.searchsorted(numbers, own)
    images = {split: Images(labels[split], store) for split, store in stores.items()}
    if val is None:
        train, held = hold_out(images["train"], 10)
        return Dataset(spec, name, names, train, held, f"val (a tenth of train, seed {HELD_OUT_SEED})")
    test = images.get("test") if val != "test" else None
    return Dataset(spec, name, names, images["train"], images[val], VAL_SPLITS[val], test=test)


def _columns(schema: pa.Schema) -> tuple[str, str, tuple[str, ...]] | str:
    """The image column, the label column and the class names, if known: by types, and where several fit, by names.

    If there are none, a line that says so.
    """
    import pyarrow as pa

    try:  # what the datasets library wrote about the columns: {"img": {"_type": "Image"}, ...}
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: dict(kind) for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        kinds = {}
    structs = [column.name for column in schema if pa.types.is_struct(column.type)]
    images = [name for name in structs if schema.field(name).type.get_field_index("bytes") >= 0]
    images = [name for name in images if kinds.get(name, {}).get("_type") == "Image"] or images
    images = [name for name in images if name in ("image", "img")] or images
    if len(images) != 1:
        return f"must have one image column (a struct with bytes), has {_some(images) or 'none'}"
    labels = [name for name in LABELS if name in schema.names][:1]
    labels = labels or [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    if len(labels) != 1:
        return f"must have a column {', '.join(LABELS)}, has {_some(schema.names)}"
    return images[0], labels[0], tuple(kinds.get(labels[0], {}).get("names") or ())
