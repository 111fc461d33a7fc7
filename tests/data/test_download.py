"""CIFAR-10 from the hub or from the university, whose downloads are replaced by functions that write a small copy."""

import hashlib
import io
import socket
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_cifar10

from alexnet.data import datasets
from alexnet.data.datasets import load

TRAIN, TEST = (f"plain_text/{split}-00000-of-00001.parquet" for split in ("train", "test"))
ARCHIVE = "cifar-10-python.tar.gz"


class Servers:
    """The two downloads: what they were asked for, and errors that they raise."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.errors: dict[str, Exception] = {}

    def answer(self, name: str) -> None:
        self.asked.append(name)
        assert socket.getdefaulttimeout() == datasets.DOWNLOAD_TIMEOUT_S
        if name in self.errors:
            raise self.errors[name]

    def hf_hub_download(self, repo: str, name: str, *, repo_type: str, local_dir: Path) -> None:
        self.answer(name)
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(tiny_cifar10.parquet("train" if name == TRAIN else "test"))

    def download_and_extract_archive(self, url: str, root: Path, *, filename: str, md5: str) -> None:
        self.answer(filename)
        print("torchvision prints on standard output")
        tiny_cifar10.write_batches(Path(root))


@pytest.fixture
def servers(monkeypatch):
    servers = Servers()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: servers.answer("metadata"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", servers.hf_hub_download)
    name = "torchvision.datasets.cifar.download_and_extract_archive"
    monkeypatch.setattr(name, servers.download_and_extract_archive)
    tiny_cifar10.use_md5(monkeypatch)
    return servers


def check(dataset):
    assert (dataset.name, list(dataset.classes), dataset.val_split) == ("CIFAR-10", tiny_cifar10.CLASSES, "test")
    assert np.array_equal(dataset.train.array(), np.concatenate([tiny_cifar10.pixels(n) for n in range(1, 6)]))
    assert np.array_equal(dataset.val.array(), tiny_cifar10.pixels(6))


def refusal(data_dir: Path) -> str:
    with pytest.raises(ConnectionError) as caught:
        load("cifar10", data_dir)
    assert len(str(caught.value).splitlines()) == 1
    assert ARCHIVE in str(caught.value)  # how to bring it by hand
    return str(caught.value)


def test_from_the_hub(servers, tmp_path, capfd):
    for _ in range(2):
        check(load("cifar10", tmp_path / "data"))
        assert servers.asked == ["metadata", TRAIN, TEST]  # the second time it is on disk
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("broken", ["metadata", TEST])
def test_from_the_university_where_the_hub_fails(servers, tmp_path, broken, capfd):
    servers.errors[broken] = OSError("no\nhub")
    check(load("cifar10", tmp_path))
    assert servers.asked[-1] == ARCHIVE
    assert capfd.readouterr().out == ""  # where --json prints
    asked = len(servers.asked)
    check(load("cifar10", tmp_path))
    check(load("cifar10", tmp_path / "cifar-10-batches-py"))
    assert len(servers.asked) == asked


def test_where_both_fail_both_reasons_are_given(servers, tmp_path):
    servers.errors |= {"metadata": OSError("no\nhub"), ARCHIVE: TimeoutError("timed out")}
    text = refusal(tmp_path)
    assert "no hub" in text
    assert "timed out" in text


def test_hf_hub_offline_asks_nobody(servers, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(tmp_path)
    assert servers.asked == []


@pytest.mark.parametrize("offline", [False, True])
def test_an_archive_that_somebody_brought_is_used(tmp_path, monkeypatch, offline, capfd):
    """By torchvision itself, also where a run was killed while it unpacked."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in tiny_cifar10.batches().items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr("torchvision.datasets.CIFAR10.tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    tiny_cifar10.use_md5(monkeypatch)
    (tmp_path / ARCHIVE).write_bytes(packed.getvalue())
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    check(load("cifar10", tmp_path))
    assert capfd.readouterr().out == ""


def test_of_several_at_once_one_downloads(servers, tmp_path, monkeypatch):
    """Threads here, which the lock keeps apart as it does processes: each opens its file again."""
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: time.sleep(0.1))
    with ThreadPoolExecutor(3) as pool:
        for dataset in pool.map(lambda _: load("cifar10", tmp_path), range(3)):
            check(dataset)
    assert servers.asked == [TRAIN, TEST]
