"""Folders of Parquet files and folders of image files: what is read, and what is refused in which words."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_cifar10
from PIL import Image

from alexnet.data.datasets import describe, load
from alexnet.data.images import ImageError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}
SHARED = Path(__file__).resolve().parents[2].parent / "shared/data/cifar10-jpeg"


def write_parquet(path, labels, features=None, image="img", label="label", kind=None, **more):
    """A Parquet file with one grey PNG a label."""
    from test_splits import png

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(np.full((4, 4, 3), i, np.uint8)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({image: pa.array(rows, STRUCT), label: pa.array(labels, kind or pa.int64()), **more})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def parquet_folder(folder, train=(0, 1, 0), val=(1, 0), features=None, val_name="test", **options):
    write_parquet(folder / "train-00000-of-00001.parquet", train, features, **options)
    write_parquet(folder / f"{val_name}-00000-of-00001.parquet", val, features, **options)
    return str(folder)


def image_folder(folder, train=("cat", "dog"), val=("cat", "dog"), val_name="val", suffix=".png"):
    for split, classes in (("train", train), (val_name, val)):
        (folder / split).mkdir(parents=True)
        for number, name in enumerate(classes):
            (folder / split / name).mkdir()
            for i in range(3):
                Image.new("RGB", (4, 4), (number, i, 9)).save(folder / split / name / f"{i}{suffix}")
    return str(folder)


def refusal(spec) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load(str(spec))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Parquet


@pytest.mark.parametrize("inner", ["", "data", "plain_text"])
@pytest.mark.parametrize(("val_name", "split"), [("test", "test"), ("validation", "val")])
def test_parquet(tmp_path, inner, val_name, split):
    features = {"img": {"_type": "Image"}, "label": CLASSES}
    parquet_folder(tmp_path / "pets" / inner, features=features, val_name=val_name)
    source = load(str(tmp_path / "pets"))
    assert (source.name, source.classes, source.val_split, source.flip) == ("pets", ("cat", "dog"), split, True)
    assert source.train.labels.tolist() == [0, 1, 0]
    assert source.train.labels.dtype == np.int64
    assert source.train.image(2).getpixel((0, 0)) == (2, 2, 2)
    assert source.val.name(1).endswith(f"{val_name}-00000-of-00001.parquet row 1 (1.png)")


def test_validation_is_preferred_to_test_which_is_kept_for_the_end(tmp_path):
    parquet_folder(tmp_path, val_name="test")
    parquet_folder(tmp_path, val_name="validation", val=(0, 1, 1, 1))
    source = load(str(tmp_path))
    assert (source.val_split, len(source.val), source.test.labels.tolist()) == ("val", 4, [1, 0])
    assert source.test.name(0).endswith("test-00000-of-00001.parquet row 0 (0.png)")
    assert describe(str(tmp_path))["how"].endswith("2 classes, 3 training images, 4 in val, 2 in test")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [0, 2])
    assert "label 2 of test does not occur in train" in refusal(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert f"{tmp_path / 'test-00000-of-00001.parquet'}: not a whole Parquet file" in refusal(tmp_path)


@pytest.mark.parametrize("options", [{"labels": (-1, -1)}, {"labels": (None, None)}, {"label": "answer"}])
def test_a_test_split_without_labels_is_not_read(tmp_path, options):
    parquet_folder(tmp_path, val_name="validation")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", **{"labels": (0, 1)} | options)
    assert load(str(tmp_path)).test is None


@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
@pytest.mark.parametrize("image", ["img", "image", "picture"])
def test_the_columns_are_found_by_type_and_name(tmp_path, image, label):
    other = {"coarse_label": pa.array([5, 5, 5]), "id": pa.array(["a", "b", "c"])}
    spec = parquet_folder(tmp_path, val=(1, 0, 1), image=image, label=label, **other)
    assert load(spec).train.labels.tolist() == [0, 1, 0]


def test_without_names_the_classes_are_the_sorted_numbers(tmp_path):
    source = load(parquet_folder(tmp_path, train=(30, 7, 30, 100), val=(100, 7), kind=pa.int32()))
    assert source.classes == ("7", "30", "100")
    assert source.train.labels.tolist() == [1, 0, 1, 2]
    assert source.val.labels.tolist() == [2, 0]


def test_several_files_are_one_split(tmp_path):
    for i, labels in enumerate([(0, 1), (1, 1, 0)]):
        write_parquet(tmp_path / f"train-0000{i}-of-00002.parquet", labels)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", (0, 1))
    train = load(str(tmp_path)).train
    assert train.labels.tolist() == [0, 1, 1, 1, 0]
    assert train.name(3).endswith("train-00001-of-00002.parquet row 1 (1.png)")
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    assert "the split has 2 files, 1 of them are here" in refusal(tmp_path)


def test_splits_that_name_other_classes_are_refused(tmp_path):
    parquet_folder(tmp_path, features={"label": CLASSES})
    write_parquet(tmp_path / "test-00000-of-00001.parquet", (0, 1), {"label": {**CLASSES, "names": ["cat", "cow"]}})
    assert "the same classes; they differ in 'cow', 'dog'" in refusal(tmp_path)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", (0, 1), {"label": {**CLASSES, "names": ["dog", "cat"]}})
    assert "they differ in their order" in refusal(tmp_path)


def test_an_unknown_number_in_the_other_split_is_refused(tmp_path):
    text = refusal(parquet_folder(tmp_path, val=(0, 1, 2)))
    assert "test-00000-of-00001.parquet row 2 (2.png): label 2 of test does not occur in train" in text


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused_with_its_row(tmp_path, label):
    text = refusal(parquet_folder(tmp_path, train=(0, 1, label), features={"label": CLASSES}))
    assert f"train-00000-of-00001.parquet row 2 (2.png): label {label} is not in 0..1" in text


def test_useless_tables_are_refused(tmp_path):
    names = {"label": CLASSES}
    assert "no training image of 'dog'" in refusal(parquet_folder(tmp_path / "a", train=(0, 0), features=names))
    assert "only one class, '4'" in refusal(parquet_folder(tmp_path / "b", train=(4, 4), val=(4,)))
    assert "the split train is empty" in refusal(parquet_folder(tmp_path / "c", train=(), features=names))
    assert "the split test is empty" in refusal(parquet_folder(tmp_path / "d", val=(), features=names))
    assert "must hold integers, but it holds double" in refusal(parquet_folder(tmp_path / "e", kind=pa.float64()))
    assert "but 1 of its rows are empty" in refusal(parquet_folder(tmp_path / "f", train=(0, None, 1)))
    assert "found none" in refusal(parquet_folder(tmp_path / "g", train=(), val=(), image="label", label="label"))
    assert "no column label, labels, fine_label" in refusal(parquet_folder(tmp_path / "h", label="target"))
    two = pa.array([{"bytes": b"", "path": ""}] * 3, STRUCT)
    text = refusal(parquet_folder(tmp_path / "i", val=(0, 1, 1), image="left", right=two))
    assert "one image column (a struct with bytes) is needed, found 'left', 'right'" in text
    write_parquet(tmp_path / "j" / "train-0.parquet", (0, 1))
    assert "neither validation-*.parquet nor test-*.parquet" in refusal(tmp_path / "j")


@pytest.mark.parametrize("damage", ["cut", "empty", "pointer"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    parquet_folder(tmp_path)
    path = tmp_path / "test-00000-of-00001.parquet"
    content = {"cut": path.read_bytes()[:200], "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\n"}
    path.write_bytes(content[damage])
    assert refusal(tmp_path).startswith(f"{path}: not a whole Parquet file (")


def test_a_corrupt_image_in_parquet_is_named(tmp_path):
    parquet_folder(tmp_path)
    rows = pa.array([{"bytes": b"\xff\xd8\xff junk", "path": "a.jpg"}] * 2, STRUCT)
    pq.write_table(pa.table({"img": rows, "label": [0, 1]}), tmp_path / "test-00000-of-00001.parquet")
    source = load(str(tmp_path))
    with pytest.raises(ImageError, match=r"test-00000-of-00001.parquet row 1 \(a.jpg\): "):
        source.val.image(1)


def test_a_row_of_a_parquet_file_points_into_its_folder_only(tmp_path):
    spec = parquet_folder(tmp_path / "set")
    (tmp_path / "set" / "test-00000-of-00001.parquet").rename(tmp_path / "set" / "test-00000-of-00002.parquet")
    for path in ("x.png", "set/x.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / path)
    rows = pa.array([{"bytes": None, "path": path} for path in ("x.png", "../x.png", str(tmp_path / "x.png"))], STRUCT)
    file = tmp_path / "set" / "test-00001-of-00002.parquet"
    pq.write_table(pa.table({"img": rows, "label": [0, 1, 1]}), file)
    images = load(spec).val
    assert images.image(2).getpixel((0, 0)) == (255, 0, 0)
    for index, path in ((3, "../x.png"), (4, tmp_path / "x.png")):
        with pytest.raises(ImageError) as caught:
            images.image(index)
        outside = f"outside of '{os.path.realpath(tmp_path / 'set')}'"
        assert str(caught.value) == f"{file} row {index - 2} ({path}): the row points to a file {outside}"


def test_the_readme_says_what_a_copy_is_called(tmp_path):
    spec = parquet_folder(tmp_path / "copy")
    assert load(spec).name == "copy"
    (tmp_path / "copy" / "README.md").write_text('An accuracy on it is quoted\nas "Pets (small)", never as Pets.')
    assert load(spec).name == "copy"
    (tmp_path / "copy" / "README.md").write_text('An accuracy on it is quoted as\n"Pets (small)", never as Pets.')
    assert load(spec).name == "Pets (small)"


def test_the_hubs_layout_of_cifar10_itself(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tiny_cifar10.parquet(split))
    source = load(str(tmp_path))
    assert list(source.classes) == tiny_cifar10.CLASSES
    assert np.array_equal(source.val.array(), tiny_cifar10.pixels(6))


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/cifar10-jpeg is not beside this checkout")
def test_the_real_jpeg_copy():
    source = load(str(SHARED))
    assert (source.name, source.val_split) == ("CIFAR-10 (JPEG q75 copy)", "test")
    assert source.classes == tuple(tiny_cifar10.CLASSES)
    assert np.bincount(source.train.labels).tolist() == [5000] * 10
    assert np.bincount(source.val.labels).tolist() == [1000] * 10
    assert source.val.array() is not None
    assert source.val.array().shape == (10_000, 32, 32, 3)
    assert np.array_equal(source.val.array()[9_999], source.val.image(9_999))
    # CIFAR-10's mean, which the JPEG coding hardly moves
    assert np.abs(source.val.array().mean((0, 1, 2)) / 255 - (0.4942, 0.4851, 0.4504)).max() < 0.005
    for i in (0, 12_345, 49_999):  # the path of a row is CLASS_NNNN.jpg
        assert f"({source.classes[source.train.labels[i]]}_" in source.train.name(i)


# image files


@pytest.mark.parametrize("val_name", ["val", "test"])
@pytest.mark.parametrize("suffix", [".png", ".JPG", ".bmp", ".webp"])
def test_images(tmp_path, val_name, suffix):
    source = load(image_folder(tmp_path / "pets", val_name=val_name, suffix=suffix))
    assert (source.name, source.classes, source.val_split) == ("pets", ("cat", "dog"), val_name)
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.train.labels.dtype == np.int64
    assert source.train.name(4) == str(tmp_path / "pets" / "train" / "dog" / f"1{suffix}")
    assert np.abs(np.subtract(source.train.image(4).getpixel((1, 1)), (1, 1, 9))).max() <= 3
    assert source.train.array().shape == (6, 4, 4, 3)


def test_a_test_folder_beside_val_is_kept_for_the_end(tmp_path):
    image_folder(tmp_path)
    for name in ("photos", ".cache"):
        (tmp_path / "test" / name).mkdir(parents=True)
    assert load(str(tmp_path)).test is None  # no folder of it is a class
    (tmp_path / "test" / "dog").mkdir()
    text = "train/ and test/ must have the same classes: 'cat' only in train/, 'photos' only in test/"
    assert text in refusal(tmp_path)
    (tmp_path / "test" / "photos").rename(tmp_path / "test" / "cat")
    for name in ("cat", "dog"):
        Image.new("RGB", (4, 4)).save(tmp_path / "test" / name / "x.png")
    source = load(str(tmp_path))
    assert (source.val_split, len(source.val), source.test.labels.tolist()) == ("val", 6, [0, 1])
    assert source.test.name(1) == str(tmp_path / "test" / "dog" / "x.png")


def test_what_is_not_an_image_is_ignored(tmp_path):
    spec = image_folder(tmp_path)
    cat = tmp_path / "train" / "cat"
    for name in (".DS_Store", "Thumbs.db", "README.txt", ".hidden.png", "._0.png"):
        (cat / name).write_bytes(b"x")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "notes.txt").touch()
    (cat / "more" / ".cache").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(cat / "more" / "z.png")
    Image.new("RGB", (4, 4)).save(cat / "more" / "zz.jfif", "JPEG")
    Image.new("RGB", (4, 4)).save(cat / "more" / ".cache" / "z.png")
    train = load(spec).train
    assert len(train) == 8
    assert train.name(3) == str(cat / "more" / "z.png")


def test_links_are_followed_and_odd_names_are_names(tmp_path):
    image_folder(tmp_path / "pets")
    for name in ("more", "pets/train/cat"):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a\nb.png")
    (tmp_path / "pets" / "train" / "cat" / "linked").symlink_to(tmp_path / "more", target_is_directory=True)
    assert load(str(tmp_path / "pets")).train.labels.tolist() == [0] * 5 + [1] * 3


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    spec, real = image_folder(tmp_path), os.scandir
    hidden = tmp_path / "train" / "cat" / "more"
    hidden.mkdir()

    def scandir(path):
        if str(path) == str(hidden):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="more"):
        load(spec)


def test_a_corrupt_file_is_reported_with_its_path(tmp_path):
    spec = image_folder(tmp_path)
    path = tmp_path / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    train = load(spec).train
    for read in (train.array, lambda: train.image(4)):
        with pytest.raises(ImageError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: damaged or truncated")


def test_a_heic_file_is_reported_not_skipped(tmp_path):
    spec = image_folder(tmp_path)
    (tmp_path / "train" / "dog" / "3.heic").write_bytes(bytes(100))
    with pytest.raises(ImageError, match="HEIC is not supported"):
        load(spec).train.array()


def test_different_classes_are_named(tmp_path):
    text = refusal(image_folder(tmp_path, train=("cat", "dog", "elk"), val=("cat", "cow", "dog")))
    assert "train/ and val/ must have the same classes: 'elk' only in train/, 'cow' only in val/" in text
    many = tuple(f"c{i}" for i in range(9))
    assert "'c0', 'c1', 'c2', 'c3', 'c4' and 4 more only in test/" in refusal(
        image_folder(tmp_path / "many", val=("cat", "dog", *many), val_name="test")
    )


def test_useless_folders_are_refused(tmp_path):
    image_folder(tmp_path / "a")
    for path in (tmp_path / "a" / "val" / "dog").iterdir():
        path.unlink()
    assert f"{tmp_path / 'a' / 'val' / 'dog'}: the class has no images" in refusal(tmp_path / "a")
    assert "only one class, 'cat'" in refusal(image_folder(tmp_path / "b", train=("cat",), val=("cat",)))
    assert "train/ holds no class folders" in refusal(image_folder(tmp_path / "c", train=(), val=()))
    (tmp_path / "d" / "train" / "cat").mkdir(parents=True)
    assert "neither val/ nor test/" in refusal(tmp_path / "d")
    (tmp_path / "e").mkdir()
    assert "neither train-*.parquet (there, in data/ or in plain_text/) nor train/CLASS/*.jpg" in refusal(
        tmp_path / "e"
    )


def test_files_are_in_one_order_whatever_the_file_system_lists_first(tmp_path, monkeypatch) -> None:
    for split in ("train", "val"):
        for name in ("cat/b", "cat/a", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for file in "10":
                Image.new("RGB", (4, 4)).save(tmp_path / split / name / f"{file}.png")
    real = os.walk

    def names(backwards: bool) -> list[str]:
        def walk(*given, **more):
            for at, inner, files in real(*given, **more):
                inner.sort(reverse=backwards)
                files.sort(reverse=backwards)
                yield at, inner, files

        monkeypatch.setattr(os, "walk", walk)
        images = load(str(tmp_path)).train
        return [images.name(i) for i in range(len(images))]

    assert names(True) == names(False)


def test_a_folder_called_valid_is_to_validate_on(tmp_path) -> None:
    image_folder(tmp_path, val_name="valid")
    shutil.copytree(tmp_path / "valid", tmp_path / "test")
    source = load(str(tmp_path))
    assert source.val_split == "val"
    assert source.val.name(0) == str(tmp_path / "valid" / "cat" / "0.png")
    assert source.test is not None


def test_a_test_split_with_some_labels_kept_back_is_refused(tmp_path) -> None:
    parquet_folder(tmp_path, val_name="validation")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", (0, -1))
    assert "label -1 of test does not occur in train" in refusal(tmp_path)
