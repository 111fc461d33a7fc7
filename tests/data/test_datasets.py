"""The specs: which data set each one gives, and what is said of those that give none."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_cifar10
from PIL import Image

from alexnet.data.datasets import describe, load
from alexnet.data.images import ImageError


def refusal(spec, data_dir="data") -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load(spec, data_dir)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def no_network(monkeypatch):
    """Whatever wants to connect fails the test."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("an address was looked up"))


def test_a_home_that_is_not_there_is_refused(no_network):
    assert refusal("~nobody-of-this-name/images").startswith(
        "--data ~nobody-of-this-name/images: there is no such user"
    )
    assert refusal("cifar10", "~nobody-of-this-name").startswith(
        "--data-dir ~nobody-of-this-name: there is no such user"
    )


# digits


def test_digits(no_network):
    source = load("digits")
    assert (source.spec, source.name, source.val_split, source.flip) == ("digits", "digits", "val", False)
    assert source.classes == tuple("0123456789")
    assert (len(source.train), len(source.val)) == (1438, 359)
    assert source.train.array().shape == (1438, 8, 8, 3)
    assert source.train.image(0).mode == "RGB"
    everything = np.concatenate([source.train.array(), source.val.array()])
    assert (everything.min(), everything.max()) == (0, 255)
    assert np.unique(everything).tolist() == [round(i * 255 / 16) for i in range(17)]
    total = np.bincount(source.train.labels) + np.bincount(source.val.labels)
    assert np.abs(np.bincount(source.val.labels) - total / 5).max() <= 0.5


def test_the_split_of_the_digits_never_changes():
    val = load("digits").val
    assert [val.name(i) for i in range(3)] == ["digits row 3", "digits row 7", "digits row 13"]
    assert val.labels[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
    assert np.array_equal(val.array(), load("digits").val.array())


def test_the_digits_are_sklearns():
    from sklearn.datasets import load_digits

    train, digits = load("digits").train, load_digits()
    row = int(train.name(100).removeprefix("digits row "))
    assert np.array_equal(np.asarray(train.image(100))[..., 1], np.rint(digits.images[row] * 255 / 16))
    assert train.labels[100] == digits.target[row]


# cifar10, as torchvision keeps it


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_on_disk(tmp_path, monkeypatch, no_network, inside):
    folder = tiny_cifar10.write_batches(tmp_path, monkeypatch)
    data_dir = folder if inside else tmp_path
    source = load("cifar10", data_dir)
    assert (source.name, list(source.classes), source.val_split) == ("CIFAR-10", tiny_cifar10.CLASSES, "test")
    assert np.array_equal(source.train.array(), np.concatenate([tiny_cifar10.pixels(n) for n in range(1, 6)]))
    assert np.array_equal(source.val.array(), tiny_cifar10.pixels(6))
    assert source.val.labels.tolist() == tiny_cifar10.labels(6).tolist()
    assert source.train.labels.dtype == np.int64
    assert source.train.name(21) == "CIFAR-10 train row 21"
    found = describe("cifar10", data_dir)
    assert found == {
        "spec": "cifar10",
        "found": True,
        "where": str(folder),
        "how": "CIFAR-10: 10 classes, 100 training images, 20 in test",
    }


def test_a_damaged_batch_is_named_and_never_unpickled(tmp_path, monkeypatch, no_network):
    folder = tiny_cifar10.write_batches(tmp_path, monkeypatch)
    trap = tmp_path / "the pickle ran"
    (folder / "data_batch_3").write_bytes(
        b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(trap).encode() + b"\ntRtR."
    )
    text = refusal("cifar10", tmp_path)
    assert text.startswith(f"{folder / 'data_batch_3'}: damaged (its md5 checksum is wrong)")
    assert not trap.exists()
    assert describe("cifar10", tmp_path) == {"spec": "cifar10", "found": False, "where": None, "how": text}
    (folder / "data_batch_3").unlink()
    assert "data_batch_3: missing or empty" in refusal("cifar10", tmp_path)


# the datasets library


@pytest.fixture
def hub(monkeypatch):
    """Give `datasets.load_dataset` something to return, made by the library itself."""
    datasets = pytest.importorskip("datasets")
    names = ["cat", "dog", "elk"]

    def split(count, image="picture", label="animal", kind=None):
        features = datasets.Features({image: datasets.Image(), label: kind or datasets.ClassLabel(names=names)})
        pictures = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(count)]
        return datasets.Dataset.from_dict({image: pictures, label: [i % 3 for i in range(count)]}, features=features)

    def offer(**splits):
        made = datasets.DatasetDict({name: split(**options) for name, options in splits.items()})
        monkeypatch.setattr(datasets, "load_dataset", lambda name: made)

    return offer


@pytest.mark.parametrize(("split", "called"), [("test", "test"), ("validation", "val")])
def test_hub_data_set(hub, split, called):
    hub(train={"count": 30}, **{split: {"count": 6}})
    source = load("hf:someone/pets")
    assert (source.name, source.classes, source.val_split) == ("someone/pets", ("cat", "dog", "elk"), called)
    assert (len(source.train), len(source.val)) == (30, 6)
    assert source.train.image(17).getpixel((0, 0)) == (17, 0, 0)
    assert source.train.labels[:4].tolist() == [0, 1, 2, 0]
    assert source.val.name(2) == f"someone/pets {split} row 2"


def test_hub_data_set_with_three_splits(hub):
    from datasets import Value

    hub(train={"count": 30}, validation={"count": 6}, test={"count": 3})
    source = load("hf:someone/pets")
    assert (source.val_split, len(source.val), len(source.test)) == ("val", 6, 3)
    assert source.test.name(2) == "someone/pets test row 2"
    hub(train={"count": 30}, validation={"count": 6}, test={"count": 3, "label": "label", "kind": Value("string")})
    assert "someone/pets test: the column 'label' must hold integers, but it holds string" in refusal("hf:someone/pets")
    hub(train={"count": 30}, validation={"count": 6}, test={"count": 3, "label": "id", "kind": Value("int64")})
    assert load("hf:someone/pets").test is None


def test_hub_data_set_with_plain_numbers(hub):
    from datasets import Value

    hub(
        train={"count": 9, "label": "label", "kind": Value("int64")},
        test={"count": 3, "label": "label", "kind": Value("int64")},
    )
    assert load("hf:x").classes == ("0", "1", "2")


def test_hub_data_set_with_training_images_only(hub):
    hub(train={"count": 300})
    source = load("hf:someone/pets")
    assert source.val_split == "val (a tenth of train, seed 0)"
    assert np.bincount(source.val.labels).tolist() == [10, 10, 10]
    rows = {side.name(i) for side in (source.train, source.val) for i in range(len(side))}
    assert len(rows) == 300
    again = load("hf:someone/pets").val
    assert [again.name(i) for i in range(30)] == [source.val.name(i) for i in range(30)]


def test_hub_data_set_that_cannot_be_used(hub, monkeypatch):
    import datasets

    hub(test={"count": 3})
    assert "no train split; there are 'test'" in refusal("hf:x")
    assert "such as hf:uoft-cs/cifar10" in refusal("hf:")
    hub(train={"count": 9, "kind": datasets.Value("string")})
    assert "x train: no column label, labels, fine_label among its columns 'picture', 'animal'" in refusal("hf:x")

    def fails(error):
        def load_dataset(name):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    fails(datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist\non the Hub"))
    assert refusal("hf:x") == "--data hf:x: Dataset 'x' doesn't exist on the Hub"
    fails(ConnectionError("Couldn't reach 'x' on the Hub"))
    with pytest.raises(ConnectionError, match=r"^--data hf:x: Couldn't reach 'x' on the Hub$"):
        load("hf:x")


def test_the_datasets_library_itself_reads_a_local_folder(tmp_path, monkeypatch, no_network):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(tiny_cifar10.parquet(split))
    source = load(f"hf:{folder}")
    assert list(source.classes) == tiny_cifar10.CLASSES
    assert np.array_equal(source.val.array(), tiny_cifar10.pixels(6))


def test_the_image_files_of_a_local_folder_and_of_no_other_are_opened(tmp_path, monkeypatch, no_network):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    for split in ("train", "test"):
        for name, colour in (("cat", "black"), ("dog", "white")):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), colour).save(folder / split / name / "1.png")
    source = load(f"hf:{folder}")
    assert source.train.image(1).getpixel((0, 0)) == (255, 255, 255)  # the library's tables hold the path alone
    made = datasets.load_dataset(str(folder))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    with pytest.raises(ImageError, match=r"x train row 0 \(.*cat/1.png\): the row points to a file outside of"):
        load("hf:x").train.image(0)


def test_a_missing_datasets_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = refusal("hf:x")
    assert text == "--data hf:x: needs the datasets library: pip install 'alexnet-2012[hf]'"
    assert describe("hf:x")["how"] == text


# specs


@pytest.mark.parametrize(
    ("spec", "close"),
    [
        ("cifar-10", "cifar10"),
        ("CIFAR10", "cifar10"),
        ("digit", "digits"),
        ("Digits", "digits"),
        ("imagenet", ""),
        ("", ""),
    ],
)
def test_an_unknown_spec(spec, close, no_network):
    text = refusal(spec)
    hint = f" (did you mean {close}?)" if close else ""
    allowed = "allowed are cifar10, digits, a folder, or hf:NAME"
    assert text == f"--data {spec!r}: no such data set or folder{hint}; {allowed}"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "pets.zip").touch()
    assert refusal(str(tmp_path / "pets.zip")).endswith(
        "pets.zip: a file; allowed are cifar10, digits, a folder, or hf:NAME"
    )


def test_a_folder_in_the_home_folder(tmp_path, monkeypatch):
    from test_folders import image_folder

    image_folder(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/pets").classes == ("cat", "dog")
    monkeypatch.chdir(tmp_path)
    assert load("pets").name == load("./pets/").name == "pets"
    monkeypatch.chdir(tmp_path / "pets")
    assert load(".").name == "pets"


def test_describe_never_downloads(tmp_path, no_network):
    how = f"not in '{tmp_path}': downloaded when it is used (about 150 MB)"
    assert describe("cifar10", tmp_path) == {"spec": "cifar10", "found": False, "where": None, "how": how}
    assert list(tmp_path.iterdir()) == []
    assert describe("hf:someone/pets")["found"] is False
    digits = "digits: 10 classes, 1,438 training images, 359 in val"
    assert describe("digits") == {"spec": "digits", "found": True, "where": "in scikit-learn", "how": digits}
    assert describe("imagenet") == {"spec": "imagenet", "found": False, "where": None, "how": refusal("imagenet")}
    assert describe(str(tmp_path))["how"] == refusal(str(tmp_path))


def test_describe_a_folder(tmp_path):
    from test_folders import image_folder

    spec = image_folder(tmp_path / "pets")
    assert describe(Path(spec).as_posix()) == {
        "spec": spec,
        "found": True,
        "where": spec,
        "how": "pets: 2 classes, 6 training images, 6 in val",
    }
