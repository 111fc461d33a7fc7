"""Where images come from: CIFAR-10, scikit-learn's digits, a folder, or a data set on the Hugging Face hub.

`load` turns a SPEC, as given to `--data`, into a `Dataset`: two splits of images with one list of class names. Whatever
is wrong with the data as a whole is refused here, before any work, in one line.
"""

import contextlib
import hashlib
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data import folders
from alexnet.data.images import ImageError
from alexnet.data.splits import Dataset, Images, hold_out
from alexnet.data.stores import Pixels
from alexnet.recipes import meant

__all__ = ["Dataset", "ImageError", "Images", "describe", "load"]

ALLOWED = "cifar10, digits, a folder, or hf:NAME"
HUB_REPO = "uoft-cs/cifar10"
HUB_FILES = ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet")
HUB_FOLDER = "cifar10"  # under the data folder: the hub's copy, in the hub's layout
SILENCE = 30.0  # seconds without a byte after which torchvision's download is given up


def load(spec: str, data_dir: str | Path = "data") -> Dataset:
    """The data set that `spec` names: `cifar10`, `digits`, a folder, or `hf:NAME`.

    Args:
        data_dir: where `cifar10` is looked for, and downloaded to.

    Raises:
        ValueError: an unknown spec, or data that cannot be used as they are; one line.
        ConnectionError: `cifar10` is not on disk and could not be downloaded; one line.
    """
    if spec == "cifar10":
        dataset = _cifar10(_expanded("--data-dir", data_dir))
    elif spec.startswith("hf:"):
        dataset = _hugging_face(spec)
    else:
        dataset = _without_network(spec)
    return _checked(dataset)


def describe(spec: str, data_dir: str | Path = "data") -> dict[str, Any]:
    """What is on disk for `spec`: {"spec", "found", "where", "how"}. Downloads nothing; bad data are told in `how`.

    `found` is whether it can be loaded as it is, `where` the path or None, `how` one line for people.
    """
    where, dataset = None, None
    try:
        if spec == "cifar10":
            data_dir = _expanded("--data-dir", data_dir)
            how = f"not in '{data_dir}': downloaded when it is used (about 150 MB)"
            if found := _cifar10_on_disk(data_dir):
                dataset, where = found[0], str(found[1])
        elif spec.startswith("hf:"):
            _require_name(spec)
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


def _expanded(flag: str, path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{flag} {path}: there is no such user, or the user has no home") from None


def _without_network(spec: str) -> Dataset:
    if spec == "digits":
        return _digits()
    folder = _expanded("--data", spec)
    if spec and folder.is_dir():
        return folders.load_folder(spec, folder)
    if folder.is_file():
        raise ValueError(f"--data {spec}: a file; allowed are {ALLOWED}")
    hint = meant(spec.lower(), ("cifar10", "digits"))
    raise ValueError(f"--data {spec!r}: no such data set or folder{hint}; allowed are {ALLOWED}")


def _checked(dataset: Dataset) -> Dataset:
    """`dataset`, if one can train on it."""
    splits = {"train": dataset.train, dataset.val_split: dataset.val}
    if dataset.test is not None:
        splits["test"] = dataset.test
    for split, images in splits.items():
        if not len(images):
            raise ValueError(f"{dataset.name}: the split {split} is empty")
    count = len(dataset.classes)
    if count < 2:
        raise ValueError(f"{dataset.name}: only one class, '{dataset.classes[0]}'; at least two are needed")
    for images in splits.values():
        outside = np.flatnonzero((images.labels < 0) | (images.labels >= count))
        if len(outside):
            first = int(outside[0])
            raise ValueError(f"{images.name(first)}: label {images.labels[first]} is not in 0..{count - 1}")
    empty = np.flatnonzero(np.bincount(dataset.train.labels, minlength=count) == 0)
    if len(empty):
        raise ValueError(f"{dataset.name}: no training image of {folders.some([dataset.classes[i] for i in empty])}")
    return dataset


# CIFAR-10


def _cifar10(data_dir: Path) -> Dataset:
    found = _cifar10_on_disk(data_dir)
    if found is None:
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        data_dir.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(data_dir / ".cifar10.lock"):  # of several processes one downloads, the others find it done
            found = _cifar10_on_disk(data_dir)
            if found is None:
                _download_cifar10(data_dir)
                found = _cifar10_on_disk(data_dir)
    assert found is not None
    return found[0]


def _cifar10_on_disk(data_dir: Path) -> tuple[Dataset, Path] | None:
    """CIFAR-10 and the folder it was found in, or None. Raises ValueError if a file of it is damaged."""
    from torchvision.datasets import CIFAR10

    here = data_dir.resolve().name == CIFAR10.base_folder
    folder = data_dir if here else data_dir / CIFAR10.base_folder
    if folder.is_dir():
        return _cifar10_batches(folder), folder
    copy = data_dir / HUB_FOLDER
    if all((copy / name).is_file() for name in HUB_FILES):
        return replace(folders.load_folder("cifar10", copy), name="CIFAR-10"), copy
    return None


def _cifar10_batches(folder: Path) -> Dataset:
    from torchvision.datasets import CIFAR10

    meta_md5 = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    md5 = dict((*CIFAR10.train_list, *CIFAR10.test_list, meta_md5))
    meta = _verified_pickle(folder / CIFAR10.meta["filename"], md5)

    def split(names: list[str], title: str) -> Images:
        batches = [_verified_pickle(folder / name, md5) for name in names]
        planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch["labels"] for batch in batches]).astype(np.int64)
        return Images(labels, Pixels(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), title))

    train = split([name for name, _ in CIFAR10.train_list], "CIFAR-10 train")
    val = split([name for name, _ in CIFAR10.test_list], "CIFAR-10 test")
    return Dataset("cifar10", "CIFAR-10", tuple(meta[CIFAR10.meta["key"]]), train, val, "test")


def _download_cifar10(data_dir: Path) -> None:
    """Put CIFAR-10 under `data_dir`: the hub's Parquet copy, or else the university's archive, by torchvision.

    Raises:
        ConnectionError: neither could be had; one line says what was tried and how to bring it by hand.
    """
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    roads = {constants.ENDPOINT: _from_the_hub, CIFAR10.url: _from_the_university}
    tried = []
    if check_integrity(data_dir / CIFAR10.filename, CIFAR10.tgz_md5):  # somebody has carried the archive here
        del roads[constants.ENDPOINT]
    elif constants.HF_HUB_OFFLINE:  # then no other server is asked either
        roads, tried = {}, ["HF_HUB_OFFLINE is set"]
    else:
        print(f"downloading CIFAR-10 (about 150 MB) to '{data_dir}'", file=sys.stderr)
    for server, road in roads.items():
        try:
            return road(data_dir)
        except Exception as error:  # each library has exceptions of its own, and of those that it is built on
            why = " ".join(str(error).split()) or type(error).__name__
            tried.append(f"{server}: {why[:200]}")
    raise ConnectionError(
        f"CIFAR-10 is not in '{data_dir}' and could not be downloaded ({'; '.join(tried)}). By hand: put "
        f"{CIFAR10.filename} or {CIFAR10.base_folder}/ there, or name their folder with --data-dir. Or use "
        "--data with a folder of images, or --data digits"
    )


def _from_the_hub(data_dir: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    for name in HUB_FILES:
        stated = get_hf_file_metadata(hf_hub_url(HUB_REPO, name, repo_type="dataset")).etag
        path = Path(hf_hub_download(HUB_REPO, name, repo_type="dataset", local_dir=data_dir / HUB_FOLDER))
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != stated:
            path.unlink()
            raise ValueError(f"{HUB_REPO} {name}: its sha256 is {found}, the hub states {stated}; deleted")


def _from_the_university(data_dir: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision sets none, and would wait for ever
    try:
        with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=data_dir) as beside:
            with contextlib.redirect_stdout(sys.stderr):  # standard output may be a JSON document
                download_and_extract_archive(CIFAR10.url, data_dir, beside, CIFAR10.filename, CIFAR10.tgz_md5)
            Path(beside, CIFAR10.base_folder).replace(data_dir / CIFAR10.base_folder)
    finally:
        socket.setdefaulttimeout(before)


def _verified_pickle(path: Path, md5: Mapping[str, str]) -> dict[str, Any]:
    """Unpickle what was checked, the very bytes: a pickle may run code."""
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5[path.name]:
        wrong = "damaged (its md5 checksum is wrong)" if data else "missing or empty"
        raise ValueError(f"{path}: {wrong}; delete the folder to have it downloaded again")
    content: dict[str, Any] = pickle.loads(data, encoding="latin1")  # written by Python 2
    return content


# digits


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    every = Images(digits.target.astype(np.int64), Pixels(np.repeat(grey[..., None], 3, axis=3), "digits"))
    train, val = hold_out(every, 5)
    return Dataset("digits", "digits", tuple(map(str, digits.target_names)), train, val, "val", flip=False)


# the datasets library


def _require_name(spec: str) -> None:
    if spec == "hf:":
        raise ValueError("--data hf: needs a name, such as hf:uoft-cs/cifar10")
    folders.require_datasets(spec)


def _hugging_face(spec: str) -> Dataset:
    _require_name(spec)
    import datasets
    from huggingface_hub import constants

    name = spec.removeprefix("hf:")
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library, and the loader of each format, have exceptions of their own
        kind = ConnectionError if isinstance(error, ConnectionError | TimeoutError) else ValueError
        raise kind(f"--data {spec}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if "train" not in splits:
        raise ValueError(f"--data {spec}: no train split; there are {folders.some(list(splits))}")
    split = next((known for known in folders.VAL_SPLITS if known in splits), None)
    # where the library puts the files that it does not put into its tables: a data set may name others, too
    caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    places = tuple(map(os.path.realpath, [name, *caches] if Path(name).is_dir() else caches))

    def rows(split: str) -> tuple[str, Any, dict[str, Any]]:
        data = splits[split]
        return f"{name} {split}", data.with_format("arrow")[:], data.features.to_dict()  # memory-mapped

    def table(split: str) -> folders.Table:
        title, arrow, features = rows(split)
        return folders.read_table([(title, arrow)], features, places, splits[split])

    test = None
    if split != "test" and "test" in splits:
        title, arrow, features = rows("test")
        if folders.labelled(title, arrow.schema, features, arrow.column):
            test = table("test")
    val, val_split = (table(split), folders.VAL_SPLITS[split]) if split else (None, "val")
    return folders.from_tables(spec, name, table("train"), val, val_split, test)
