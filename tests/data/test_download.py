"""Downloads against a server on this machine: slow, broken, resumed, wrong; and CIFAR-10 by both of its roads."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny_cifar10

from alexnet.data import download
from alexnet.data.datasets import load
from alexnet.data.download import DownloadError, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """A server on this machine: what it serves, how badly, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)  # bytes of the body to send, one entry a request
    chunk: int = 1 << 20
    pause: float = 0.0  # seconds between chunks
    sha256: dict[str, str] = field(default_factory=dict)  # what the hub states; the truth by default
    silent_from: int = 1 << 40  # a byte that never comes, nor any after it
    redirect: str = ""  # send GETs of files there
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def gets(self) -> list[str]:
        return [path for method, path, _ in self.asked if method == "GET"]

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for method, _, headers in self.asked if method == "GET"]


@contextmanager
def serving(site: Site):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer("HEAD")

        def do_GET(self):
            self.answer("GET")

        def answer(self, method):
            site.asked.append((method, self.path, dict(self.headers)))
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
            elif method == "GET" and site.redirect:
                self.send_response(302)
                self.send_header("Location", site.redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.serve(method, body)

        def serve(self, method, body):
            start = 0
            asked = self.headers.get("Range")
            if asked and site.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            sha256 = site.sha256.get(self.path, hashlib.sha256(body).hexdigest())
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"of-the-pointer"')
            self.send_header("X-Linked-Etag", f'"{sha256}"')
            self.send_header("X-Linked-Size", str(len(body)))
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if method == "HEAD":
                return
            stop = min(len(body), start + site.break_after.pop(0)) if site.break_after else len(body)
            for at in range(start, min(stop, site.silent_from), site.chunk):
                piece = body[at : min(at + site.chunk, stop, site.silent_from)]
                site.sent += len(piece)  # before the client can have it, and look here
                self.wfile.write(piece)
                time.sleep(site.pause)
            if stop > site.silent_from:
                time.sleep(0.5)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site():
    with serving(Site({"/a.bin": CONTENT})) as site:
        yield site


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download(site, tmp_path, capsys):
    target = tmp_path / "new" / "a.bin"
    assert fetch(site.url + "/a.bin", target, "md5", MD5) == target
    assert target.read_bytes() == CONTENT
    assert listed(target.parent) == ["a.bin"]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "downloading a.bin: 0.3 MB\n")  # not a terminal: a line, not a bar
    fetch(site.url + "/a.bin", target, "md5", MD5)
    assert len(site.asked) == 1  # it was there, and right


def test_a_bar_in_a_terminal(site, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert "a.bin: 100%" in terminal.getvalue()


def test_a_slow_server(site, tmp_path):
    site.chunk, site.pause = 60_000, 0.05
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5, timeout=2)
    assert len(site.asked) == 1


def test_a_server_that_stops_sending_is_given_up(site, tmp_path):
    site.silent_from = 200_000
    with pytest.raises(DownloadError, match="timed out"):
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5, timeout=0.1)
    assert site.ranges_asked() == [None, "bytes=200000-"]
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:200_000]


def test_a_broken_download_goes_on_by_itself(site, tmp_path):
    site.break_after = [100_000, 50_000]
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.ranges_asked() == [None, "bytes=100000-", "bytes=150000-"]
    assert site.sent == len(CONTENT)  # not a byte twice


def test_a_broken_download_is_resumed_by_the_next_call(site, tmp_path, capsys):
    site.break_after = [100_000, 0]
    with pytest.raises(
        DownloadError, match=r"broke off after 100,000 of 300,000 bytes; the next try goes on from there"
    ):
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert listed(tmp_path) == ["a.bin.part"]
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert site.sent == len(CONTENT)
    assert listed(tmp_path) == ["a.bin"]
    assert "0.3 MB, 0.1 MB are here" in capsys.readouterr().err


def test_a_killed_download_is_resumed(site, tmp_path):
    site.chunk, site.pause = 30_000, 0.02
    code = f"""
from pathlib import Path
from alexnet.data.download import fetch
fetch({site.url + "/a.bin"!r}, Path({str(tmp_path / "a.bin")!r}), "md5", {MD5!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part = tmp_path / "a.bin.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    child.wait()
    have = part.stat().st_size
    assert 0 < have < len(CONTENT)
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert site.ranges_asked()[-1] == f"bytes={have}-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(site, tmp_path):
    site.ranges, site.break_after = False, [100_000]
    fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.sent == 100_000 + len(CONTENT)


def test_a_server_without_ranges_that_always_breaks_is_given_up(site, tmp_path):
    site.ranges, site.break_after = False, [100_000] * 10
    with pytest.raises(DownloadError, match="broke off"):
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert len(site.asked) == 2


def test_a_wrong_checksum(site, tmp_path):
    with pytest.raises(DownloadError, match=r"wrong md5 checksum \(expected 0000.*\); what had arrived was deleted"):
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", "0" * 32)
    assert listed(tmp_path) == []


def test_a_part_of_something_else_is_not_kept(site, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="wrong md5"):
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert listed(tmp_path) == []


@pytest.mark.parametrize(("part", "good"), [(CONTENT, True), (CONTENT + b"x", False)])
def test_a_part_as_long_as_the_file(site, tmp_path, part, good):
    (tmp_path / "a.bin.part").write_bytes(part)
    if good:
        assert fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5).read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="wrong md5"):
            fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert site.sent == 0


def test_a_missing_file(site, tmp_path):
    with pytest.raises(DownloadError, match=r"^http://127.0.0.1:\d+/b.bin: the server answered 404 Not Found$"):
        fetch(site.url + "/b.bin", tmp_path / "b.bin", "md5", MD5)


def test_a_refused_connection(tmp_path):
    with serving(Site()) as site:
        url = site.url
    with pytest.raises(DownloadError, match=r"/a.bin: .*refused"):
        fetch(url + "/a.bin", tmp_path / "a.bin", "md5", MD5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_not_taken_for_a_network_error(site, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*a.bin.part: No space left on device") as caught:
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5)
    assert not isinstance(caught.value, DownloadError)


def test_a_token_goes_to_its_server_only(site, tmp_path):
    with serving(Site(dict(site.files))) as elsewhere:
        site.redirect = elsewhere.url.replace("127.0.0.1", "localhost")
        (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
        fetch(site.url + "/a.bin", tmp_path / "a.bin", "md5", MD5, headers={"authorization": "Bearer secret"})
    assert site.asked[0][2]["Authorization"] == "Bearer secret"
    assert "secret" not in json.dumps(elsewhere.asked)
    assert elsewhere.ranges_asked() == ["bytes=1000-"]


# CIFAR-10: the hub first, then the university


def hub_path(split: str) -> str:
    return f"/datasets/uoft-cs/cifar10/resolve/main/plain_text/{split}-00000-of-00001.parquet"


def archive() -> bytes:
    """The university's archive in small, with a member that should never be unpacked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        files = {f"cifar-10-batches-py/{name}": content for name, content in tiny_cifar10.batches().items()}
        for name, content in {**files, "../escaped": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def hub(monkeypatch):
    """The hub and the university, both on this machine."""
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10

    packed = archive()
    files = {hub_path(split): tiny_cifar10.parquet(split) for split in ("train", "test")}
    with serving(Site({**files, "/cifar-10-python.tar.gz": packed})) as site:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(CIFAR10, "url", site.url + "/cifar-10-python.tar.gz")
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed).hexdigest())
        tiny_cifar10.use_md5_of(tiny_cifar10.batches(), monkeypatch)
        yield site


def check(source):
    assert (source.name, list(source.classes), source.val_split) == ("CIFAR-10", tiny_cifar10.CLASSES, "test")
    assert np.array_equal(source.train.array(), np.concatenate([tiny_cifar10.pixels(n) for n in range(1, 6)]))
    assert np.array_equal(source.val.array(), tiny_cifar10.pixels(6))


def visible(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


HUB_FILES = {f"cifar10/plain_text/{split}-00000-of-00001.parquet" for split in ("train", "test")}


def test_cifar10_from_the_hub(hub, tmp_path):
    check(load("cifar10", tmp_path / "data"))
    assert visible(tmp_path / "data") == HUB_FILES
    before = len(hub.asked)
    check(load("cifar10", tmp_path / "data"))
    assert len(hub.asked) == before  # the second time it is on disk


def test_cifar10_from_the_hub_goes_on_where_it_broke_off(hub, tmp_path):
    size = len(hub.files[hub_path("train")])
    del hub.files["/cifar-10-python.tar.gz"]
    hub.break_after = [size, 10_000, 0]
    with pytest.raises(DownloadError, match="broke off after 10,000"):
        load("cifar10", tmp_path)
    check(load("cifar10", tmp_path))
    assert hub.ranges_asked() == [None, None, "bytes=10000-", None, "bytes=10000-"]
    assert hub.sent == size + len(hub.files[hub_path("test")])


def test_hf_endpoint_and_the_machines_token_are_the_librarys(hub, tmp_path):
    """In a process of its own, because the hub's library reads the environment when it is imported."""
    code = "import sys; from pathlib import Path; from alexnet.data.download import *; "
    code += "fetch_from_hub(HUB_REPO, HUB_FILES[1], Path(sys.argv[1]))"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_of_the_test", "HF_HOME": str(tmp_path / "home")}
    env.pop("HF_HUB_OFFLINE", None)
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, env=env, timeout=60, check=True
    )
    assert (tmp_path / "a").read_bytes() == hub.files[hub_path("test")]
    asked = [
        (method, {key.lower(): value for key, value in headers.items()})
        for method, path, headers in hub.asked
        if path == hub_path("test")
    ]
    assert [(method, headers["authorization"]) for method, headers in asked] == [
        ("HEAD", "Bearer hf_of_the_test"),
        ("GET", "Bearer hf_of_the_test"),
    ]


def test_a_hub_file_with_another_sha256_is_not_used(hub, tmp_path):
    hub.sha256[hub_path("test")] = "0" * 64
    check(load("cifar10", tmp_path))  # by the other road
    assert (tmp_path / "cifar-10-batches-py").is_dir()
    assert not (tmp_path / "cifar10/plain_text/test-00000-of-00001.parquet").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_hub_that_states_no_sha256_is_not_trusted(hub, tmp_path):
    hub.sha256[hub_path("train")] = "a-git-sha1"
    check(load("cifar10", tmp_path))
    assert hub_path("train") not in hub.gets()


def test_cifar10_from_the_university(hub, tmp_path):
    for split in ("train", "test"):
        del hub.files[hub_path(split)]
    hub.break_after = [5_000]
    check(load("cifar10", tmp_path / "data"))
    batches = {f"cifar-10-batches-py/{name}" for name in tiny_cifar10.batches()}
    assert visible(tmp_path) == {f"data/{name}" for name in batches | {"cifar-10-python.tar.gz"}}  # and none "escaped"
    assert [path.name for path in (tmp_path / "data").glob(".cifar10-*")] == []
    check(load("cifar10", tmp_path / "data" / "cifar-10-batches-py"))
    assert hub.gets().count("/cifar-10-python.tar.gz") == 2  # broken once, then the rest


def test_an_archive_that_somebody_brought_is_used(hub, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(hub.files["/cifar-10-python.tar.gz"])
    check(load("cifar10", tmp_path))
    assert hub.asked == []


def test_neither_road_is_open(hub, tmp_path):
    hub.files.clear()
    with pytest.raises(ConnectionError) as caught:
        load("cifar10", tmp_path / "data")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"CIFAR-10 is not in '{tmp_path / 'data'}' and could not be downloaded (")
    assert f"{hub.url}{hub_path('train')}: " in text
    assert f"{hub.url}/cifar-10-python.tar.gz: the server answered 404" in text
    for way in ("--data-dir with a folder that holds cifar-10-batches-py", "--data with a folder", "--data digits"):
        assert way in text


def test_offline(hub, tmp_path):
    hub_url = hub.url
    with serving(Site()) as gone:
        closed = gone.url
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed + "/{repo_id}/{revision}/{filename}")
        patch.setattr(CIFAR10, "url", closed + "/cifar-10-python.tar.gz")
        with pytest.raises(ConnectionError) as caught:
            load("cifar10", tmp_path)
    assert str(caught.value).count("refused") == 2
    assert hub_url not in str(caught.value)


def test_hf_hub_offline_asks_nobody(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(HF_HUB_OFFLINE is set\). Three ways on: "):
        load("cifar10", tmp_path)
    assert hub.asked == []


def test_of_two_at_once_one_downloads(hub, tmp_path):
    hub.chunk, hub.pause = 100_000, 0.01
    sources = []
    threads = [threading.Thread(target=lambda: sources.append(load("cifar10", tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for source in sources:
        check(source)
    assert len(sources) == 3
    assert sorted(hub.gets()) == sorted([hub_path("train"), hub_path("test")])
