"""CIFAR-10 by both of its roads, from a server on this machine: whole, broken, absent, wrong, silent."""

import hashlib
import io
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import tiny_cifar10
from alexnet.data import datasets
from alexnet.data.datasets import load

ARCHIVE = "/cifar-10-python.tar.gz"
TRAIN, TEST = (
    f"/datasets/uoft-cs/cifar10/resolve/main/plain_text/{split}-00000-of-00001.parquet" for split in ("train", "test")
)


@dataclass
class Site:
    """A server: what it serves, how badly, and what it was asked."""

    files: dict[str, bytes]
    break_after: dict[str, list[int]] = field(default_factory=dict)  # bytes of a file to send, one entry a request
    silence: float = 0.0  # seconds before a body comes
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def gets(self, path):
        return sum((method, asked) == ("GET", path) for method, asked, _ in self.asked)


@contextmanager
def serving(site):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            site.asked.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)  # without ranges: what broke starts again
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(body)))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # torchvision sends its HEAD as a GET with a header of that name
            if self.command == "GET" and self.headers.get("Method") != "HEAD":
                time.sleep(site.silence)
                breaks = site.break_after.get(self.path)
                self.wfile.write(body[: breaks.pop(0)] if breaks else body)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def archive():
    """The university's archive in small."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in tiny_cifar10.batches().items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def site(monkeypatch):
    """The hub and the university, both on this machine, and nothing else."""
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    packed = archive()
    with serving(
        Site({TRAIN: tiny_cifar10.parquet("train"), TEST: tiny_cifar10.parquet("test"), ARCHIVE: packed})
    ) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(CIFAR10, "url", site.url + ARCHIVE)
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed).hexdigest())
        tiny_cifar10.use_md5(monkeypatch)
        yield site


def check(dataset):
    assert dataset.name in ("CIFAR-10", "cifar10")  # torchvision's, and a Parquet copy with other images than the hub's
    assert (list(dataset.classes), dataset.val_split) == (tiny_cifar10.CLASSES, "test")
    assert np.array_equal(dataset.train.array(), np.concatenate([tiny_cifar10.pixels(n) for n in range(1, 6)]))
    assert np.array_equal(dataset.val.array(), tiny_cifar10.pixels(6))


def visible(folder):
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)}


HUB_FILES = {f"cifar10/plain_text/{split}-00000-of-00001.parquet" for split in ("train", "test")}
BATCHES = {f"cifar-10-batches-py/{name}" for name in tiny_cifar10.batches()}


def refusal(data_dir):
    with pytest.raises(ConnectionError) as caught:
        load("cifar10", data_dir)
    assert len(str(caught.value).splitlines()) == 1
    assert "cifar-10-python.tar.gz" in str(caught.value)  # how to bring it by hand
    return str(caught.value)


def test_from_the_hub(site, tmp_path, capfd):
    check(load("cifar10", tmp_path / "data"))
    assert visible(tmp_path / "data") == HUB_FILES
    before = len(site.asked)
    check(load("cifar10", tmp_path / "data"))
    assert len(site.asked) == before  # the second time it is on disk
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_broken_transfer_starts_its_file_again(site, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    site.break_after[TEST] = [1000]
    check(load("cifar10", tmp_path))
    assert (site.gets(TRAIN), site.gets(TEST), site.gets(ARCHIVE)) == (1, 2, 0)


@pytest.mark.parametrize("wrong", ["broken for good", "absent"])
def test_from_the_university_where_the_hub_fails(site, tmp_path, wrong, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)  # between its five tries
    if wrong == "absent":
        del site.files[TEST]
    site.break_after[TEST] = [0] * 100
    check(load("cifar10", tmp_path))
    train = {path for path in HUB_FILES if "train" in path}
    assert visible(tmp_path) == {*BATCHES, "cifar-10-python.tar.gz", *train}
    assert capfd.readouterr().out == ""  # torchvision prints there, and --json does
    asked = len(site.asked)
    check(load("cifar10", tmp_path))
    check(load("cifar10", tmp_path / "cifar-10-batches-py"))
    assert len(site.asked) == asked


def test_an_archive_that_came_wrong_starts_again(site, tmp_path, monkeypatch):
    del site.files[TRAIN], site.files[TEST]
    site.break_after[ARCHIVE] = [5000]
    text = refusal(tmp_path)
    assert "404" in text
    assert site.url + ARCHIVE in text
    assert (tmp_path / "cifar-10-python.tar.gz").is_file()  # a part of it
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(site.asked)
    assert "HF_HUB_OFFLINE" in refusal(tmp_path)
    assert len(site.asked) == asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    check(load("cifar10", tmp_path))


def test_nobody_answers(site, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10

    with serving(Site({})) as gone:
        closed = gone.url
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed + "/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(CIFAR10, "url", closed + ARCHIVE)
    assert refusal(tmp_path).count("refused") == 2


def test_a_server_that_says_nothing_is_given_up(site, tmp_path, monkeypatch):
    del site.files[TRAIN]
    site.silence = 1.0
    monkeypatch.setattr(datasets, "DOWNLOAD_TIMEOUT_S", 0.2)
    assert "timed out" in refusal(tmp_path)


@pytest.mark.parametrize("offline", [False, True])
def test_an_archive_that_somebody_brought_is_used(site, tmp_path, monkeypatch, offline, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(site.files[ARCHIVE])
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half, because a run was killed")
    check(load("cifar10", tmp_path))
    assert site.asked == []
    assert capfd.readouterr().out == ""


def test_of_several_at_once_one_downloads(site, tmp_path):
    """Threads here, which the lock keeps apart as it does processes: each opens its own file."""
    site.silence = 0.05
    with ThreadPoolExecutor(3) as pool:
        for dataset in pool.map(lambda _: load("cifar10", tmp_path), range(3)):
            check(dataset)
    assert (site.gets(TRAIN), site.gets(TEST), site.gets(ARCHIVE)) == (1, 1, 0)
