"""Many images: Parquet that is not read into memory, a million paths, and an order that needs no buffer."""

import os
import pickle
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_folders import CLASSES, parquet_folder, refusal, write_parquet

from alexnet.data import folders, loaders
from alexnet.data.datasets import load
from alexnet.data.splits import Images
from alexnet.data.stores import Files, Paths


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Parquet of any size counts as large, and the datasets library keeps its copies here."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(folders, "_MAPPED_FROM", 0)


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "set"
    parquet_folder(folder, features={"label": CLASSES})
    (folder / "train-00000-of-00001.parquet").unlink()
    for i, labels in enumerate([(0, 1, 0), (1, 1), (0,)]):
        write_parquet(folder / f"train-0000{i}-of-00003.parquet", labels, {"label": CLASSES})
    return str(folder)


def test_large_parquet_stays_on_disk_and_is_the_same_data_set(spec, request, monkeypatch):
    read = load(spec)
    request.getfixturevalue("on_disk")
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("read whole"))
    mapped = load(spec)
    assert mapped.fingerprint() == read.fingerprint()
    assert mapped.classes == read.classes
    for ours, theirs in ((mapped.train, read.train), (mapped.val, read.val)):
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert [ours.name(i) for i in range(len(ours))] == [theirs.name(i) for i in range(len(theirs))]
        assert np.array_equal(ours.array(), theirs.array())


@pytest.mark.usefixtures("on_disk")
def test_of_a_large_table_a_worker_is_sent_the_files_names(spec):
    images = load(spec).train
    sent = pickle.dumps(images)
    assert b"PNG" not in sent
    copy = pickle.loads(sent)
    assert copy.name(4).endswith("train-00001-of-00003.parquet row 1 (1.png)")
    assert np.array_equal(copy.array(), images.array())


@pytest.mark.usefixtures("on_disk")
def test_damaged_pages_are_one_line(spec, tmp_path):
    path = tmp_path / "set" / "train-00001-of-00003.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # the footer is whole
    path.write_bytes(content)
    assert refusal(spec).startswith(f"--data {spec}: its Parquet files cannot be read (")


@pytest.mark.usefixtures("on_disk")
def test_a_missing_datasets_library_is_named_for_large_parquet(spec, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    needs = "Parquet of this size needs the datasets library: pip install 'alexnet-2012[hf]'"
    assert refusal(spec) == f"--data {spec}: {needs}"


def test_paths_are_a_sequence_in_little_memory():
    names = ["/a/ä.png", os.fsdecode(b"/b/\xff.png"), "/c"]
    paths = Paths(iter(names))
    assert list(paths) == names
    assert paths[-1] == "/c"
    assert len(Paths([])) == 0
    tracemalloc.start()
    many = Paths(f"/train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(20_000))
    held, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert many[17_777] == "/train/n00000777/n00000777_17777.JPEG"
    assert held < 50 * len(many)  # a list of strings takes 100
    assert highest < 150 * len(many)


def test_the_fingerprint_of_image_files_is_what_it_was(tmp_path):
    """Runs begun before must go on."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(bytes([65 + i]) * 48)
    store = Files([str(tmp_path / f"{i}.png") for i in range(3)], str(tmp_path))
    assert Images(np.arange(3), store).fingerprint().hex()[:16] == "0dda2b2bd62ea872"


def test_the_order_of_a_million_is_a_function_of_seed_and_epoch():
    order = loaders.epoch_order(1_281_167, seed=1, epoch=2)
    assert order[:4].tolist() == [989122, 1001024, 548369, 452996]
    assert torch.equal(order.bincount(), torch.ones(1_281_167, dtype=torch.int64))
