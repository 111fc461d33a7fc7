"""Data sets in folders: the Parquet layout of the Hugging Face hub, or one folder of image files per class."""

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.data.splits import HELD_OUT_SEED, Dataset, Images, hold_out
from alexnet.data.stores import Encoded, Files, Paths

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# What counts as an image in a class folder. HEIC cannot be read, but to leave it out silently would be worse.
_IMAGE_FILE = re.compile(r"[^.].*\.(jpe?g|jpe|jfif|png|bmp|gif|webp|tiff?|p[bgp]m|jp2|avif|hei[cf])", re.I | re.S)
# Validation before test: what steers a training run should not be what it is judged by in the end.
VAL_SPLITS = {"validation": "val", "val": "val", "valid": "val", "test": "test"}
_PARQUET_FOLDERS = ("", "data", "plain_text")
_LABELS = ("label", "labels", "fine_label")
_MAPPED_FROM = 1 << 30  # bytes of a split's Parquet files above which they are not read into memory


def load_folder(spec: str, folder: Path) -> Dataset:
    """The data set in `folder`, whichever of the two layouts it has.

    Raises:
        ValueError: neither layout, a class without images, splits with different classes, a damaged Parquet file.
    """
    for name in _PARQUET_FOLDERS:
        if any((folder / name).glob("train-*.parquet")):
            return _parquet_folder(spec, folder, folder / name)
    if (folder / "train").is_dir():
        return _image_folder(spec, folder)
    raise ValueError(
        f"--data {spec}: neither train-*.parquet (there, in data/ or in plain_text/) nor train/CLASS/*.jpg was found"
    )


def _display_name(folder: Path) -> str:
    """The folder's name, unless its README says: quoted as "NAME"."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    quoted = re.search(r'quoted as\s+"([^"\n]+)"', text)
    return quoted[1] if quoted else folder.resolve().name


def _image_folder(spec: str, folder: Path) -> Dataset:
    split = next((name for name in VAL_SPLITS if (folder / name).is_dir()), None)
    if split is None:
        raise ValueError(f"--data {spec}: train/ is there, but neither val/ nor test/")
    classes, judges = _class_folders(folder / "train"), [split]
    if split != "test" and (folder / "test").is_dir() and set(classes) & set(_class_folders(folder / "test")):
        judges.append("test")  # one without folders of these classes has no labels
    for name in judges:
        if classes != (found := _class_folders(folder / name)):
            only = {"train": sorted(set(classes) - set(found)), name: sorted(set(found) - set(classes))}
            parts = [f"{some(names)} only in {where}/" for where, names in only.items() if names]
            raise ValueError(f"--data {spec}: train/ and {name}/ must have the same classes: {', '.join(parts)}")
    if not classes:
        raise ValueError(f"--data {spec}: train/ holds no class folders")
    train, val, *test = (_class_files(folder / name, classes) for name in ("train", *judges))
    opened_last = test[0] if test else None
    return Dataset(spec, _display_name(folder), tuple(classes), train, val, VAL_SPLITS[split], test=opened_last)


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _class_files(folder: Path, classes: list[str]) -> Images:
    counts: list[int] = []

    def paths() -> Iterator[str]:
        for name in classes:
            found = 0
            for at, inner, files in os.walk(folder / name, onerror=_raise, followlinks=True):
                inner[:] = sorted(entry for entry in inner if not entry.startswith("."))
                own = [f"{at}{os.sep}{file}" for file in sorted(files) if _IMAGE_FILE.fullmatch(file)]
                found += len(own)
                yield from own
            if not found:
                raise ValueError(f"{folder / name}: the class has no images")
            counts.append(found)

    store = Files(Paths(paths()), str(folder))
    return Images(np.repeat(np.arange(len(classes), dtype=np.int64), counts), store)


def _raise(error: OSError) -> None:
    raise error


def some(names: Sequence[str]) -> str:
    """A list for an error message, cut short where it is long."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# tables: Parquet files, and the datasets library's


@dataclass(frozen=True, eq=False)
class Table:
    """The two columns of one split that matter here. `names` are the class names, where the table knows them."""

    images: Encoded
    labels: np.ndarray  # int64 [N], as the file has them
    names: tuple[str, ...] | None


def require_datasets(spec: str, why: str = "") -> None:
    """ValueError, in one line, where the datasets library is not installed."""
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(f"--data {spec}: {why}needs the datasets library: pip install 'alexnet-2012[hf]'")


def read_table(
    parts: Sequence[tuple[str, "pa.Table"]], features: Mapping[str, Any], folders: tuple[str, ...], mapped: Any = None
) -> Table:
    """One split from its Arrow tables, each with the name that error messages use for it.

    Args:
        features: column name to {"_type", ...}, as the datasets library writes it into a schema; may be empty.
        folders: where the files lie that rows without bytes may point to; real paths.
        mapped: the datasets library's table on disk, where the parts are one after another the whole of it.

    Raises:
        ValueError: no image column or no label column can be told, or the labels are not integers.
    """
    import pyarrow as pa

    images, labels, names = [], [], None
    for title, table in parts:
        image, label = _columns(title, table.schema, features)
        column = table.column(label)
        if not pa.types.is_integer(column.type) or column.null_count:
            what = f"{column.null_count} of its rows are empty" if column.null_count else f"it holds {column.type}"
            raise ValueError(f"{title}: the column '{label}' must hold integers, but {what}")
        labels.append(column.to_numpy().astype(np.int64))
        images.append(table.column(image))
        if images[-1].type != images[0].type:
            raise ValueError(f"{title}: the column '{image}' is not of the same type as in {parts[0][0]}")
        names = _kind(features, label).get("names")
    column = pa.chunked_array([chunk for part in images for chunk in part.chunks], images[0].type)
    starts = np.cumsum([0] + [len(part) for part in labels[:-1]]).tolist()
    on_disk = None if mapped is None else mapped.select_columns([image])
    store = Encoded(column, tuple(starts), tuple(title for title, _ in parts), folders, on_disk)
    return Table(store, np.concatenate(labels), tuple(names) if names else None)


def _kind(features: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    kind = features.get(column)
    return kind if isinstance(kind, Mapping) else {}


def _columns(title: str, schema: "pa.Schema", features: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the image column and the label column: by their types, and where several fit, by their names."""
    import pyarrow as pa

    def holds_files(kind: "pa.DataType") -> bool:
        return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0

    images = [field.name for field in schema if holds_files(field.type)]
    images = [name for name in images if _kind(features, name).get("_type") == "Image"] or images
    images = [name for name in images if name in ("image", "img")] or images
    if len(images) != 1:
        raise ValueError(f"{title}: one image column (a struct with bytes) is needed, found {some(images) or 'none'}")
    labels = [name for name in _LABELS if name in schema.names]
    labels = labels or [name for name in schema.names if _kind(features, name).get("_type") == "ClassLabel"][:2]
    if not labels or (labels[0] not in _LABELS and len(labels) > 1):
        raise ValueError(f"{title}: no column {', '.join(_LABELS)} among its columns {some(schema.names)}")
    return images[0], labels[0]


def labelled(title: str, schema: "pa.Schema", features: Mapping[str, Any], column: Callable[[str], Any]) -> bool:
    """Whether a test split can be judged by: of many the labels were kept back, which the hub writes as -1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        _, label = _columns(title, schema, features)
    except ValueError:
        return False
    integers = pa.types.is_integer(schema.field(label).type)  # what else there is, is refused when it is read
    return not integers or pc.any(pc.greater_equal(column(label), 0)).as_py() is True


def from_tables(
    spec: str, name: str, train: Table, val: Table | None, val_split: str, test: Table | None = None
) -> Dataset:
    """A data set from its splits. ValueError where they do not have the same classes.

    Without `val`, a tenth of the training images is held out, and `val_split` says so.
    """
    judges = {split: table for split, table in ((val_split, val), ("test", test)) if table}
    names = next((table.names for table in (train, *judges.values()) if table.names), None)
    for split, table in judges.items():
        if train.names and table.names and train.names != table.names:
            difference = some(sorted(set(train.names) ^ set(table.names))) or "their order"
            raise ValueError(f"{name}: train and {split} must have the same classes; they differ in {difference}")
    numbers = np.arange(len(names)) if names else np.unique(train.labels)

    def images(table: Table, split: str) -> Images:
        if names:
            return Images(table.labels, table.images)
        strange = np.flatnonzero(~np.isin(table.labels, numbers))
        if len(strange):
            row = int(strange[0])
            raise ValueError(f"{table.images.name(row)}: label {table.labels[row]} of {split} does not occur in train")
        return Images(np.searchsorted(numbers, table.labels), table.images)

    training = images(train, "train")
    if val:
        held = images(val, val_split)
    else:
        training, held = hold_out(training, 10)
        val_split = f"val (a tenth of train, seed {HELD_OUT_SEED})"
    opened_last = images(test, "test") if test else None
    return Dataset(spec, name, names or tuple(map(str, numbers)), training, held, val_split, test=opened_last)


def _parquet_folder(spec: str, folder: Path, files: Path) -> Dataset:
    split = next((name for name in VAL_SPLITS if any(files.glob(f"{name}-*.parquet"))), None)
    if split is None:
        raise ValueError(f"--data {spec}: train-*.parquet is there, neither validation-*.parquet nor test-*.parquet")
    names = ["train", split]
    if split != "test" and (test_files := sorted(files.glob("test-*.parquet"))):
        with _opened(test_files[0]) as file:
            schema, title = file.schema_arrow, str(test_files[0])
            if labelled(title, schema, _features(schema), lambda label: file.read(columns=[label]).column(0)):
                names.append("test")
    train, val, *test = (_read_parquet(spec, sorted(files.glob(f"{name}-*.parquet"))) for name in names)
    return from_tables(spec, _display_name(folder), train, val, VAL_SPLITS[split], next(iter(test), None))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["pq.ParquetFile"]:
    """A Parquet file. ValueError, which names it, where it turns out not to be a whole one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())})") from error


def _read_parquet(spec: str, paths: list[Path]) -> Table:
    stated = re.search(r"-of-(\d+)$", paths[0].stem)
    if stated and int(stated[1]) != len(paths):
        raise ValueError(f"{paths[0]}: the split has {int(stated[1])} files, {len(paths)} of them are here")
    large = sum(path.stat().st_size for path in paths) > _MAPPED_FROM
    parts: list[tuple[str, pa.Table]] = []
    rows: list[int] = []
    features: dict[str, Any] = {}
    for path in paths:
        with _opened(path) as file:
            schema = file.schema_arrow
            features = features or _features(schema)
            columns = list(_columns(str(path), schema, features))
            rows.append(file.metadata.num_rows)
            if not large:
                parts.append((str(path), file.read(columns=columns)))
    mapped = _mapped(spec, paths, columns) if large else None
    if mapped is not None:
        table, starts = mapped.with_format("arrow")[:], np.cumsum([0, *rows[:-1]]).tolist()
        parts = [(str(path), table.slice(start, n)) for path, start, n in zip(paths, starts, rows, strict=True)]
    return read_table(parts, features, (os.path.realpath(paths[0].parent),), mapped)


def _mapped(spec: str, paths: list[Path], columns: list[str]) -> Any:
    """The files as one table of the datasets library: memory-mapped, in its cache, where it writes a copy at first.

    Parquet itself cannot be mapped: of a file, a row cannot be had without the hundreds or thousands around it.
    """
    require_datasets(spec, "Parquet of this size ")
    from datasets import Dataset as OnDisk

    try:
        return OnDisk.from_parquet(list(map(str, paths)), columns=columns)
    except Exception as error:  # the library has exceptions of its own, around those of pyarrow and of the system
        why = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"--data {spec}: its Parquet files cannot be read ({why})") from error


def _features(schema: "pa.Schema") -> dict[str, Any]:
    """What the datasets library wrote about the columns: {"img": {"_type": "Image"}, ...}; {} if it wrote nothing."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}
