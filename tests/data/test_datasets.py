"""The specs, and what a data set does: splits, subsets, fingerprints."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tiny_cifar10
from alexnet import recipes
from alexnet.data import datasets
from alexnet.data.datasets import Dataset, Files, Images, Pixels, describe, hold_out, load
from pictures import encoded, image_folder, parquet_folder, png, write_parquet

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3), dtype=np.uint8)


def refusal(spec, data_dir="data", kind=ValueError):
    with pytest.raises(kind) as caught:
        load(str(spec), data_dir)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def no_network(monkeypatch):
    """Whatever wants to connect fails the test."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("an address was looked up"))


def noise(labels, title="made up"):
    return Images(np.array(labels), Pixels(np.zeros((len(labels), 2, 2, 3), np.uint8), title))


# Specs


def test_digits_never_change(no_network):
    digits = load("digits")
    assert (digits.name, digits.val_split, digits.flip, digits.classes) == ("digits", "val", False, tuple("0123456789"))
    assert (len(digits.train), len(digits.val)) == (1438, 359)
    assert [digits.val.name(i) for i in range(3)] == ["digits row 3", "digits row 7", "digits row 13"]
    assert np.unique(digits.train.array()).tolist() == [round(i * 255 / 16) for i in range(17)]
    assert digits.fingerprint() == "297532414bba2816"


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_on_disk(tmp_path, monkeypatch, no_network, inside):
    folder = tiny_cifar10.write_batches(tmp_path)
    tiny_cifar10.use_md5(monkeypatch)
    data_dir = folder if inside else tmp_path
    dataset = load("cifar10", data_dir)
    assert (dataset.name, list(dataset.classes), dataset.val_split) == ("CIFAR-10", tiny_cifar10.CLASSES, "test")
    assert np.array_equal(dataset.train.array(), np.concatenate([tiny_cifar10.pixels(n) for n in range(1, 6)]))
    assert np.array_equal(dataset.val.array(), tiny_cifar10.pixels(6))
    assert dataset.val.labels.tolist() == tiny_cifar10.labels(6).tolist()
    how = "CIFAR-10: 10 classes, 100 training images, 20 in test"
    assert describe("cifar10", data_dir) == {"spec": "cifar10", "found": True, "where": str(data_dir), "how": how}


def test_a_damaged_batch_is_never_unpickled(tmp_path, monkeypatch, no_network):
    folder, trap = tiny_cifar10.write_batches(tmp_path), tmp_path / "the pickle ran"
    tiny_cifar10.use_md5(monkeypatch)
    (folder / "data_batch_3").write_bytes(
        b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(trap).encode() + b"\ntRtR."
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert str(tmp_path) in refusal("cifar10", tmp_path, ConnectionError)
    assert not trap.exists()
    assert describe("cifar10", tmp_path)["found"] is False


def test_images_are_decoded_once(tmp_path, monkeypatch):
    train = load(parquet_folder(tmp_path)).train
    whole = train.array()
    monkeypatch.setattr(datasets, "open_image", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(train.subset([2, 0]).subset([1]).array(), whole[[0]])


@pytest.mark.parametrize(("jpegs", "name"), [(0, "CIFAR-10"), (3, "CIFAR-10 (3 test images as JPEG)")])
def test_cifar10_is_recognised_by_its_pixels(tmp_path, monkeypatch, jpegs, name):
    rows = [{"bytes": png(np.full((32, 32, 3), i, np.uint8)), "path": None} for i in range(10)]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", range(10), rows=rows)
    for i in range(jpegs):
        rows[i]["bytes"] = encoded(Image.new("RGB", (32, 32), (i, i, 200)), "JPEG")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", range(10), rows=rows)
    assert load(str(tmp_path)).name == tmp_path.name
    whole = b"".join(bytes([i]) * (1 + 3072) for i in range(10))
    first, all_ten = (hashlib.md5(part).hexdigest() for part in (whole[:3073], whole))
    monkeypatch.setattr(datasets, "CIFAR10_IMAGES", 10)
    monkeypatch.setattr(datasets, "FIRST_MD5", (first,))
    monkeypatch.setattr(datasets, "TRAIN_MD5", (all_ten,))
    monkeypatch.setattr(datasets, "TEST_MD5", (all_ten,))
    assert load(str(tmp_path)).name == name


@pytest.mark.parametrize(
    ("spec", "close"),
    [("cifar-10", "cifar10"), ("CIFAR10", "cifar10"), ("Digits", "digits"), ("imagenet", ""), ("", "")],
)
def test_an_unknown_spec(spec, close, no_network):
    text = refusal(spec)
    assert repr(spec) in text
    assert f"(did you mean {close}?)" in text if close else "did you mean" not in text
    assert describe(spec) == {"spec": spec, "found": False, "where": None, "how": text}


def test_paths(tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/pets").classes == ("cat", "dog")
    monkeypatch.chdir(tmp_path / "pets")
    assert load(".").name == "pets"
    assert "~nobody-of-this-name" in refusal("~nobody-of-this-name/images")
    (tmp_path / "pets.zip").touch()
    assert "a file" in refusal(tmp_path / "pets.zip")
    how, where = "pets: 2 classes, 6 training images, 6 in val", str(tmp_path / "pets")
    assert describe(where) == {"spec": where, "found": True, "where": where, "how": how}


def test_describe_never_downloads(tmp_path, no_network):
    assert describe("cifar10", tmp_path)["found"] is describe("hf:someone/pets")["found"] is False
    assert list(tmp_path.iterdir()) == []


# The datasets library


@pytest.fixture
def hub(monkeypatch):
    """Give `datasets.load_dataset` something to return, made by the library itself."""
    import datasets

    names = ["cat", "dog", "elk"]

    def split(count, image="picture", label="animal", kind=None):
        features = datasets.Features({image: datasets.Image(), label: kind or datasets.ClassLabel(names=names)})
        pictures = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(count)]
        return datasets.Dataset.from_dict({image: pictures, label: [i % 3 for i in range(count)]}, features=features)

    def offer(**splits):
        made = datasets.DatasetDict({name: split(**options) for name, options in splits.items()})
        monkeypatch.setattr(datasets, "load_dataset", lambda name: made)

    return offer


def test_hub_data_set(hub):
    hub(train={"count": 30}, validation={"count": 6}, test={"count": 3})
    dataset = load("hf:someone/pets")
    assert (dataset.name, dataset.classes, dataset.val_split) == ("someone/pets", ("cat", "dog", "elk"), "val")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (30, 6, 3)
    assert dataset.train.image(17).getpixel((0, 0)) == (17, 0, 0)
    assert dataset.test.name(2) == "someone/pets test row 2"
    hub(train={"count": 30}, test={"count": 6})
    assert load("hf:someone/pets").val_split == "test"


def test_hub_data_set_with_training_images_only(hub):
    hub(train={"count": 300})
    dataset = load("hf:someone/pets")
    assert dataset.val_split == "val (a tenth of train, seed 0)"
    assert np.bincount(dataset.val.labels).tolist() == [10, 10, 10]
    rows = {side.name(i) for side in (dataset.train, dataset.val) for i in range(len(side))}
    assert len(rows) == 300


def test_hub_data_set_that_cannot_be_used(hub, monkeypatch):
    import datasets

    hub(test={"count": 3})
    assert "'test'" in refusal("hf:x")
    assert "hf:uoft-cs/cifar10" in refusal("hf:")
    hub(train={"count": 9, "kind": datasets.Value("string")})
    assert "'animal'" in refusal("hf:x")
    for error in (datasets.exceptions.DatasetNotFoundError("no\nsuch set"), ConnectionError("no hub")):
        monkeypatch.setattr(datasets, "load_dataset", lambda name, error=error: (_ for _ in ()).throw(error))
        assert "hf:x" in refusal("hf:x", kind=ConnectionError if isinstance(error, ConnectionError) else ValueError)


def test_the_datasets_library_itself_reads_local_folders(tmp_path, monkeypatch, no_network):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}-00000-of-00001.parquet").write_bytes(tiny_cifar10.parquet(split))
    dataset = load(f"hf:{tmp_path / 'set'}")
    assert list(dataset.classes) == tiny_cifar10.CLASSES
    assert np.array_equal(dataset.val.array(), tiny_cifar10.pixels(6))
    files = load(f"hf:{image_folder(tmp_path / 'pets', ('train', 'test'))}")  # whose tables hold the path alone
    assert files.train.image(4).getpixel((0, 0)) == (1, 1, 9)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
        sizes, _ = files.train.store.listing(np.arange(2))
    assert sizes.tolist() == [len(files.train.encoded(i)) for i in range(2)]


# Splits


@pytest.fixture(params=["pixels", "table", "files"])
def images(request, tmp_path):
    """The same twelve images in each kind of store."""
    labels = np.arange(12) % 3
    if request.param == "pixels":
        return Images(labels, Pixels(PIXELS, "made up"))
    contents = [png(array) for array in PIXELS]
    if request.param == "files":
        paths = [tmp_path / f"{i:02}.png" for i in range(12)]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return Images(labels, Files([str(path) for path in paths], str(tmp_path)))
    rows = [{"bytes": content, "path": None} for content in contents]
    for part, own in (("0", slice(5)), ("1", slice(5, 12))):
        write_parquet(tmp_path / f"train-0000{part}-of-00002.parquet", labels[own], rows=rows[own])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [0, 1, 2])
    return load(str(tmp_path)).train


def test_every_store_gives_the_same_images(images, monkeypatch):
    assert np.array_equal(images.array(), PIXELS)
    assert images.array() is images.array()
    assert np.array_equal(images.image(-1), PIXELS[-1])
    with pytest.raises(IndexError):
        images.image(12)
    some = images.subset([4, 2, 2, -1])
    assert some.labels.tolist() == [1, 2, 2, 2]
    assert np.array_equal(some.array(), PIXELS[[4, 2, 2, 11]])
    assert np.array_equal(some.subset(np.array([3, 0])).array(), PIXELS[[11, 4]])
    assert some.name(0) == images.name(4)
    assert images.subset([]).array() is None
    monkeypatch.setattr(datasets, "ARRAY_LIMIT", PIXELS.nbytes * 11 // 12 - 1)
    assert np.array_equal(images.subset(images.labels == 1).array(), PIXELS[1::3])
    assert images.subset(range(11)).array() is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.sampled_from([5, 10]))
def test_hold_out_takes_a_share_of_every_class(labels, part):
    images = noise(labels)
    train, held = hold_out(images, part)
    names = [side.name(i) for side in (train, held) for i in range(len(side))]
    assert sorted(names) == sorted(images.name(i) for i in range(len(images)))
    for label in set(labels):
        count = labels.count(label)
        assert (held.labels == label).sum() == min(max(1, round(count / part)), count - 1)
    again = hold_out(images, part)[1]
    assert [again.name(i) for i in range(len(again))] == [held.name(i) for i in range(len(held))]


def test_a_data_set_as_a_recipe_uses_it():
    train, test = noise(np.repeat([0, 1, 2], [50, 30, 20])), noise([0, 1, 2])
    dataset = Dataset("spec", "name", ("a", "b", "c"), train, test, "test")
    found = dataset.prepare(recipes.classic(holdout=10, images=30))
    assert np.bincount(found.val.labels).tolist() == [5, 3, 2]
    assert np.bincount(found.train.labels).tolist() == [15, 9, 6]
    assert (found.test, found.val_split) == (test, "holdout")
    assert dataset.prepare(recipes.classic()).flip
    names = [{images.name(i) for i in range(len(images))} for images in (found.train, found.val)]
    assert not names[0] & names[1]
    assert found.with_holdout(5) is found  # it has images to validate on, and others to be evaluated on
    assert np.bincount(dataset.with_fewer(99).train.labels).tolist() == [50, 30, 20]
    for change in (dataset.with_holdout, dataset.with_fewer):
        for count in (0, 100):
            with pytest.raises(ValueError, match=str(count)):
                change(count)
    with pytest.raises(ValueError, match="holdout"):
        Dataset("spec", "name", ("a", "b"), noise([0, 1]), noise([0, 1]), "test").with_holdout(1)
    assert dataset.eval_images("test") == ("test", test)
    with pytest.raises(ValueError, match="val"):
        Dataset("spec", "name", ("a", "b"), noise([0, 1]), noise([0]), "val").eval_images("test")


# Fingerprints


def fingerprint(images, val=None, classes=("a", "b", "c"), test=None):
    return Dataset("spec", "name", classes, images, val or images.subset([0, 1]), "val", test=test).fingerprint()


def test_any_change_changes_the_fingerprint(images):
    same, val = fingerprint(images), images.subset([0, 1])
    changed = [
        fingerprint(Images(np.roll(images.labels, 1), images.store), val),
        fingerprint(Images(images.labels, images.store, np.roll(np.arange(12), 3)), val),
        fingerprint(images, images.subset([1, 0])),
        fingerprint(images, classes=("a", "c", "b")),
        fingerprint(images, classes=("a", "b", os.fsdecode(b"\xff"))),
        fingerprint(images, test=images),
    ]
    assert len({same, *changed}) == 7
    assert same == fingerprint(images)


def test_of_many_bytes_all_sizes_and_a_sample_are_looked_at(images, monkeypatch):
    read = []
    monkeypatch.setattr(datasets, "READ_WHOLE", 100)
    monkeypatch.setattr(datasets, "READ_OF_MORE", 3)
    whole = Images.encoded
    monkeypatch.setattr(Images, "encoded", lambda self, index: (read.append(index), whole(self, index))[1])
    images.fingerprint()
    assert read == [0, 5, 11]


def test_fingerprints_are_what_they_were(tmp_path):
    """Runs begun before must be resumable."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(bytes([65 + i]) * 48)
    files = Files([str(tmp_path / f"{i}.png") for i in range(3)], str(tmp_path))
    assert Images(np.arange(3), files).fingerprint().hex()[:16] == "0dda2b2bd62ea872"


def test_a_folder_that_moved_is_the_same_data_set(tmp_path):
    for name in ("parquet", "files"):
        spec = (parquet_folder if name == "parquet" else image_folder)(tmp_path / name)
        before = load(spec).fingerprint()
        shutil.move(spec, spec + " moved")
        assert load(spec + " moved").fingerprint() == before


def test_a_subset_of_images_that_are_rows_of_a_store():
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    images = Images(np.zeros(3, np.int64), Pixels(pixels, "shades"), rows=np.array([5, 1, 3]))
    assert images.array()[:, 0, 0, 0].tolist() == [5, 1, 3]
    assert images.subset([2, 0]).array()[:, 0, 0, 0].tolist() == [3, 5]
