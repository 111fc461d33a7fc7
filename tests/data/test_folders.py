"""Folders of Parquet files and folders of image files: what is read, and what is refused."""

import contextlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tiny_cifar10
from alexnet.data import datasets
from alexnet.data.datasets import load
from alexnet.data.images import ImageError
from pictures import CLASSES, LFS_POINTER, STRUCT, image_folder, parquet_folder, write_parquet

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"


def refusal(spec):
    with pytest.raises(ValueError, match=r".") as caught:
        load(str(spec))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Parquet


@pytest.mark.parametrize(("inner", "val_name", "split"), [("", "test", "test"), ("data", "validation", "val")])
def test_parquet(tmp_path, inner, val_name, split):
    features = {"img": {"_type": "Image"}, "label": CLASSES}
    parquet_folder(tmp_path / "pets" / inner, features=features, val_name=val_name)
    dataset = load(str(tmp_path / "pets"))
    assert (dataset.name, dataset.classes, dataset.val_split, dataset.flip) == ("pets", ("cat", "dog"), split, True)
    assert dataset.train.labels.tolist() == [0, 1, 0]
    assert dataset.train.image(2).getpixel((0, 0)) == (2, 2, 2)
    assert dataset.val.name(1).endswith(f"{val_name}-00000-of-00001.parquet row 1 (1.png)")


def test_validation_is_preferred_to_test_which_is_kept_for_the_end(tmp_path):
    parquet_folder(tmp_path, val_name="test")
    parquet_folder(tmp_path, val_name="validation", val=(0, 1, 1, 1))
    dataset = load(str(tmp_path))
    assert (dataset.val_split, len(dataset.val), dataset.test.labels.tolist()) == ("val", 4, [1, 0])
    for labels in ([0, 2], [0, -1]):
        write_parquet(tmp_path / "test-00000-of-00001.parquet", labels)
        assert f"label {labels[1]}" in refusal(tmp_path)


@pytest.mark.parametrize("options", [{"labels": (-1, -1)}, {"labels": (None, None)}, {"label": "answer"}])
def test_a_test_split_without_labels_is_not_read(tmp_path, options):
    parquet_folder(tmp_path, val_name="validation")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", **{"labels": (0, 1)} | options)
    dataset = load(str(tmp_path))
    assert (dataset.test, dataset.val_split) == (None, "val")
    assert "test" in dataset.notes[0]
    (tmp_path / "validation-00000-of-00001.parquet").unlink()
    assert load(str(tmp_path)).val_split.startswith("val (a tenth")


@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
@pytest.mark.parametrize("image", ["img", "image", "picture"])
def test_the_columns_are_found_by_type_and_name(tmp_path, image, label):
    other = {"coarse_label": pa.array([5, 5, 5]), "id": pa.array(["a", "b", "c"])}
    spec = parquet_folder(tmp_path, val=(1, 0, 1), image=image, label=label, **other)
    assert load(spec).train.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint8(), pa.uint64()])
def test_without_names_the_classes_are_the_numbers(tmp_path, kind):
    dataset = load(parquet_folder(tmp_path, train=(1, 0, 1, 2), val=(2, 0), kind=kind))
    assert dataset.classes == ("0", "1", "2")
    assert (dataset.train.labels.tolist(), dataset.val.labels.tolist()) == ([1, 0, 1, 2], [2, 0])


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "set[1]"
    for i, labels in enumerate([(0, 1, 0), (1, 1), (0,)]):
        write_parquet(folder / f"train-0000{i}-of-00003.parquet", labels, {"label": CLASSES})
    write_parquet(folder / "test-00000-of-00001.parquet", (0, 1), {"label": CLASSES})
    return str(folder)


def test_several_files_are_one_split(shards):
    train = load(shards).train
    assert train.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert train.name(4).endswith("train-00001-of-00003.parquet row 1 (1.png)")
    Path(shards, "train-00001-of-00003.parquet").unlink()
    assert "3 files, 2 of them" in refusal(shards)
    for path in Path(shards).glob("train-*"):  # as the hub named them once
        path.rename(path.with_stem(f"{path.stem}-a09b74b3ef9c3b56"))
    assert "3 files, 2 of them" in refusal(shards)


def test_the_files_of_a_split_must_have_the_same_classes(shards):
    write_parquet(Path(shards, "train-00001-of-00003.parquet"), (1, 1), {"label": {**CLASSES, "names": ["dog", "cat"]}})
    assert "train-00001-of-00003.parquet: the class names, or their order, differ" in refusal(shards)


def test_large_parquet_stays_on_disk_and_is_the_same_data_set(shards, tmp_path, monkeypatch):
    read = load(shards)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(datasets, "MAPPED_FROM", 0)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("read whole"))
    mapped = load(shards)
    assert (mapped.fingerprint(), mapped.classes) == (read.fingerprint(), read.classes)
    assert [mapped.train.name(i) for i in range(6)] == [read.train.name(i) for i in range(6)]
    assert np.array_equal(mapped.train.array(), read.train.array())
    path = Path(shards, "train-00001-of-00003.parquet")
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # the footer is whole
    path.write_bytes(content)
    assert "cannot be read" in refusal(shards)


def test_splits_with_other_classes_are_refused(tmp_path):
    parquet_folder(tmp_path, features={"label": CLASSES})
    for names, difference in (
        (["cat", "cow"], "train alone has 'dog'; test alone has 'cow'"),
        (["dog", "cat"], "order"),
    ):
        write_parquet(tmp_path / "test-00000-of-00001.parquet", (0, 1), {"label": {**CLASSES, "names": names}})
        assert difference in refusal(tmp_path)


NAMES = {"label": CLASSES}
TWO_IMAGES = pa.array([{"bytes": b"", "path": ""}] * 3, STRUCT)


@pytest.mark.parametrize(("options", "reason"), [
    ({"train": (0, 0), "features": NAMES}, "no training image of 'dog'"),
    ({"train": (0, 0), "val": (0,)}, "only one class, '0'"),
    ({"features": {"label": {**CLASSES, "names": ["cat", "cat"]}}}, "two classes are called 'cat'"),
    ({"train": (), "features": NAMES}, "train is empty"),
    ({"val": (), "features": NAMES}, "test is empty"),
    ({"kind": pa.float64()}, "double"),
    ({"train": (0, None, 1)}, "row 1 (1.png): label -1"),
    ({"train": (7, 7, 9)}, "label 7"),
    ({"train": (), "val": (), "image": "label"}, "none"),
    ({"label": "target"}, "'target'"),
    ({"val": (0, 1, 1), "image": "left", "right": TWO_IMAGES}, "'left', 'right'"),
    ({"train": (0, 1, 2), "features": NAMES}, "train-00000-of-00001.parquet row 2 (2.png): label 2"),
])  # fmt: skip
def test_useless_tables_are_refused(tmp_path, options, reason):
    assert reason in refusal(parquet_folder(tmp_path, **options))


def test_without_other_splits_a_tenth_is_held_out(tmp_path):
    write_parquet(tmp_path / "parquet" / "train-0.parquet", (0, 1) * 10)
    image_folder(tmp_path / "files", ("train",))
    for name, counts in (("parquet", [9, 9, 1, 1]), ("files", [2, 2, 1, 1])):
        dataset = load(str(tmp_path / name))
        assert [*np.bincount(dataset.train.labels), *np.bincount(dataset.val.labels)] == counts
        assert dataset.val_split.startswith("val (a tenth of train")


def test_a_class_without_validation_images_is_named(tmp_path):
    spec = image_folder(tmp_path)
    shutil.rmtree(tmp_path / "val" / "dog")
    (tmp_path / "val" / "dog").mkdir()
    assert load(spec).notes == ("no image of 'dog' in val",)


@pytest.mark.parametrize("damage", ["cut", "empty", "pointer"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    parquet_folder(tmp_path)
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes({"cut": path.read_bytes()[:200], "empty": b"", "pointer": LFS_POINTER}[damage])
    text = refusal(tmp_path)
    assert str(path) in text
    assert ("git lfs pull" in text) == (damage == "pointer")


def test_rows_that_are_damaged_empty_or_point_to_a_file(tmp_path):
    parquet_folder(tmp_path)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "x.png")
    contents = [b"\xff\xd8\xff junk", b"", None, None, None]
    rows = [{"bytes": c, "path": p} for c, p in zip(contents, ["a.jpg", "b", None, "c.png", "x.png"], strict=True)]
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [0, 1, 0, 1, 0], rows=rows)
    images = load(str(tmp_path)).val
    for i, path in enumerate((" (a.jpg)", " (b)", "", " (c.png)")):
        with pytest.raises(ImageError) as caught:
            images.image(i)
        assert f"test-00000-of-00001.parquet row {i}{path}: " in str(caught.value)
    assert images.image(4).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ImageError):
        images.array()


def test_a_row_may_not_point_to_a_file_outside_the_data_set(tmp_path):
    spec = parquet_folder(tmp_path / "set")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "x.png")
    rows = [{"bytes": None, "path": path} for path in ("../x.png", str(tmp_path / "x.png"), "link.png")]
    write_parquet(tmp_path / "set/test-00000-of-00001.parquet", [0, 1, 1], rows=rows)
    for i in range(3):
        with pytest.raises(ImageError, match=f"row {i} .*outside"):
            load(spec).val.image(i)


def test_the_readme_says_what_a_copy_is_called(tmp_path):
    spec = parquet_folder(tmp_path / "copy")
    assert load(spec).name == "copy"
    (tmp_path / "copy" / "README.md").write_text('An accuracy on it is quoted as\n"Pets (small)", never as Pets.')
    assert load(spec).name == "Pets (small)"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="copies of CIFAR-10 are not beside this checkout")
@pytest.mark.parametrize(
    ("folder", "name"), [("cifar10", "CIFAR-10 (20 test images as JPEG)"), ("cifar10-jpeg", "CIFAR-10 (JPEG q75 copy)")]
)
def test_real_copies(folder, name):
    dataset = load(str(SHARED / folder))
    assert (dataset.name, dataset.classes) == (name, tuple(tiny_cifar10.CLASSES))
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.val.labels).tolist() == [1000] * 10


# Image files


@pytest.mark.parametrize(("val_name", "split"), [("val", "val"), ("valid", "val"), ("test", "test")])
@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp"])
def test_images(tmp_path, val_name, split, suffix):
    dataset = load(image_folder(tmp_path / "pets", ("train", val_name), suffix=suffix))
    assert (dataset.name, dataset.classes, dataset.val_split, dataset.notes) == ("pets", ("cat", "dog"), split, ())
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.name(4) == str(tmp_path / "pets" / "train" / "dog" / f"1{suffix}")
    assert np.abs(np.subtract(dataset.train.image(4).getpixel((1, 1)), (1, 1, 9))).max() <= 3


def test_a_test_folder_beside_val_is_kept_for_the_end(tmp_path):
    spec = image_folder(tmp_path)
    (tmp_path / "test" / "photos").mkdir(parents=True)
    assert load(spec).test is None  # no folder of it is a class
    assert "test is not used" in load(spec).notes[0]
    (tmp_path / "test" / "photos").rmdir()
    (tmp_path / "test" / "0.png").touch()
    assert load(spec).test is None  # images without labels
    (tmp_path / "val").rename(tmp_path / "aside")
    assert load(spec).val_split.startswith("val (a tenth")
    for name in ("Cat", "Dog"):  # misnamed classes, not images without labels
        (tmp_path / "test" / name).mkdir()
    assert "test alone has 'Cat', 'Dog'" in refusal(spec)
    for name in ("Cat", "Dog"):
        (tmp_path / "test" / name).rmdir()
    (tmp_path / "aside").rename(tmp_path / "val")
    (tmp_path / "test" / "photos").mkdir()
    (tmp_path / "test" / "dog").mkdir()
    assert "'photos'" in refusal(spec)
    shutil.rmtree(tmp_path / "test")
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    dataset = load(spec)
    assert (dataset.val_split, len(dataset.val), len(dataset.test)) == ("val", 6, 6)
    assert dataset.test.name(3) == str(tmp_path / "test" / "dog" / "0.png")


def test_one_split_to_validate_on(tmp_path):
    spec = image_folder(tmp_path, ("train", "val", "validation"))
    assert "validation and val are both there" in refusal(spec)


JUNK_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints", "__pycache__")


@pytest.mark.parametrize("place", ["train", "train/cat", "val"])
def test_what_programs_leave_in_folders_is_neither_class_nor_image(tmp_path, place):
    spec = image_folder(tmp_path)
    for name in JUNK_FOLDERS:
        (tmp_path / place / name / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / name / "cat" / "0.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "README.txt"):
        (tmp_path / place / name).write_bytes(b"x")
    dataset = load(spec)
    assert (dataset.classes, len(dataset.train), len(dataset.val)) == (("cat", "dog"), 6, 6)
    (note,) = dataset.notes
    assert f"{len(JUNK_FOLDERS) + 5} files and folders" in note


def test_an_image_that_cannot_be_read_is_not_left_out(tmp_path):
    spec = image_folder(tmp_path)
    (tmp_path / "train" / "cat" / "IMG.HEIC").touch()
    assert len(load(spec).train) == 7


def test_folders_in_a_class_are_of_it_in_one_order(tmp_path, monkeypatch):
    spec = image_folder(tmp_path)
    for name in ("b", "a"):
        (tmp_path / "train/cat" / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "train/cat" / name / "a\nb.jfif", "JPEG")

    real = os.scandir

    @contextlib.contextmanager
    def backwards(path):
        with real(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    for scan in (real, backwards):
        monkeypatch.setattr(os, "scandir", scan)
        train = load(spec).train
        names = [Path(train.name(i)).relative_to(tmp_path / "train").as_posix() for i in range(5)]
        assert names == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/a/a\nb.jfif", "cat/b/a\nb.jfif"]


def test_links_are_followed_and_each_real_folder_is_visited_once(tmp_path):
    image_folder(tmp_path / "store")
    linked = tmp_path / "linked"
    (linked / "val").mkdir(parents=True)
    (linked / "train").symlink_to(tmp_path / "store/train")
    for name in ("cat", "dog"):
        (linked / "val" / name).symlink_to(f"../../store/val/{name}")
    assert (len(load(str(linked)).train), len(load(str(linked)).val)) == (6, 6)
    (tmp_path / "twice").mkdir()
    for split in ("train", "val"):
        (tmp_path / "twice" / split).symlink_to(tmp_path / "store/train")
    assert "train/cat is the folder of 2 classes or splits" in refusal(tmp_path / "twice")
    image_folder(tmp_path / "more", ("photos",), classes=("x",))
    for name, target in (
        ("self", "."), ("split", ".."), ("root", "../.."), ("dog", "../dog"),
        ("more", "../../../more/photos"), ("again", "../../../more/photos/x"),
    ):  # fmt: skip
        (tmp_path / "store/train/cat" / name).symlink_to(target)
    assert load(str(tmp_path / "store")).train.labels.tolist() == [0] * 6 + [1] * 3
    (tmp_path / "store/train/cat/gone.png").symlink_to("/nowhere/gone.png")
    train = load(str(tmp_path / "store")).train
    with pytest.raises(ImageError, match=r"gone\.png"):
        train.array()


def test_names_that_look_the_same_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    image_folder(tmp_path, ("train",), classes=(composed, "tea"))
    image_folder(tmp_path, ("val",), classes=(decomposed, "tea"))
    assert load(str(tmp_path)).classes == (composed, "tea")
    try:
        image_folder(tmp_path, ("train",), classes=(decomposed,))
    except FileExistsError:
        pytest.skip("this file system takes them for one folder")
    assert load(str(tmp_path)).train.labels.tolist() == [0] * 6 + [1] * 3


def test_useless_folders_are_refused(tmp_path):
    assert "train-*.parquet" in refusal(tmp_path)
    spec = image_folder(tmp_path / "x", ("train",), ("cat", "elk"))
    image_folder(tmp_path / "x", ("val",), ("cat", *(f"c{i}" for i in range(9))))
    assert "val alone has 'c0', 'c1', 'c2', 'c3', 'c4' and 4 more" in refusal(spec)
    assert "'cat'" in refusal(image_folder(tmp_path / "b", classes=("cat",)))
    for split in ("train", "val"):
        (tmp_path / "c" / split).mkdir(parents=True)
    assert "train/ has no folders" in refusal(tmp_path / "c")


def test_a_named_pipe_is_not_read(tmp_path):
    spec = image_folder(tmp_path)
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load(spec).fingerprints()


def test_images_outside_class_folders_are_named(tmp_path):
    spec = image_folder(tmp_path)
    shutil.rmtree(tmp_path / "train" / "cat")
    shutil.rmtree(tmp_path / "train" / "dog")
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "0.png")
    assert "a folder of its own" in refusal(spec)
