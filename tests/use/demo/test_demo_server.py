"""The page's server: who can reach it, what of this machine can be reached through it, what it leaves behind."""

import asyncio
import contextlib
import http.client
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from alexnet.use.demo import server as server_module
from alexnet.use.demo.network import Network
from alexnet.use.demo.server import _listen, serve

BOUNDARY = "frontier"


def ask(page: SimpleNamespace, method: str, path: str, body: bytes = b"", kind: str = "application/json"):
    """One request, its path sent as it is: status, headers and content."""
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=60)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    with contextlib.suppress(OSError):  # refused before it was all sent
        connection.send(body)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def upload(page: SimpleNamespace, data: bytes, name: str = "a.png"):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return ask(page, "POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={BOUNDARY}")


def test_the_page_names_no_address_elsewhere(page: SimpleNamespace) -> None:
    status, headers, body = ask(page, "GET", "/")
    assert status == 200
    own = urlsplit(page.url).netloc
    elsewhere = {found for found in re.findall(r"https?:(?:\\?/){2}([^\"'\s/\\)<]+)", body.decode()) if found != own}
    assert not elsewhere
    for asset in re.findall(r'(?:src|href)="(\./assets/[^"]+)"', body.decode()):
        assert ask(page, "GET", asset.removeprefix("."))[0] == 200
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert not re.search(r"https?:|\*", headers["content-security-policy"])


def test_the_style_is_served_and_names_no_font_elsewhere(page: SimpleNamespace) -> None:
    status, _, body = ask(page, "GET", "/theme.css")
    assert status == 200
    assert not re.search(rb"https?://(?!www.w3.org/2000/svg)|@import", body)  # that one is a name, never fetched


SECRET = Path("/etc/passwd")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=//etc/passwd",
        "/gradio_api/file={folder}/../../etc/passwd",
        "/gradio_api/file={folder}/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file={folder}/link",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=README.md",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/file=file:///etc/passwd",
        "/static/../../../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/svelte/../../../../../../../../../etc/passwd",
        "/gradio_api/custom_component/1/server/component/..%2f..%2fetc/passwd",
    ],
)
def test_no_file_of_the_disk_can_be_fetched(page: SimpleNamespace, path: str) -> None:
    link = page.folder / "link"
    if not link.is_symlink():
        link.symlink_to(SECRET)
    status, _, body = ask(page, "GET", path.format(folder=page.folder))
    assert status in (403, 404)
    assert b"root:" not in body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file={url}"),
        ("GET", "/gradio_api/file=https://huggingface.co/robots.txt"),
        ("GET", "/gradio_api/proxy=https://huggingface.co/robots.txt"),
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/run-history/records"),
        ("GET", "/docs"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/upload"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/login"),
        ("DELETE", "/"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(page: SimpleNamespace, method: str, path: str) -> None:
    assert ask(page, method, path.format(url=page.url))[0] == 404


@pytest.mark.parametrize("named", ["/etc/passwd", "{url}robots.txt", "https://huggingface.co/x.png", "link", "\0"])
def test_an_event_may_name_uploads_alone(page: SimpleNamespace, named: str) -> None:
    """Gradio itself would fetch a file that is a URL."""
    file = {"path": named.format(url=page.url), "url": page.url, "meta": {"_type": "gradio.FileData"}}
    event = {"data": [file], "fn_index": 0, "session_hash": "abcdefgh"}
    for body in (event, {"deeper": [[event]]}):
        status, _, content = ask(page, "POST", "/gradio_api/queue/join", json.dumps(body).encode())
        assert status == 400
        assert content == b"a file that was not uploaded here"
    assert ask(page, "POST", "/gradio_api/queue/join", b"no JSON")[0] == 400
    assert ask(page, "POST", "/gradio_api/queue/join", b'{"a":' * 2000)[0] == 400


def test_uploads_are_limited_in_bytes(page: SimpleNamespace) -> None:
    from alexnet.use.demo.page import MAX_BYTES

    before = set(page.folder.rglob("*"))
    assert upload(page, bytes(MAX_BYTES + 1))[0] == 413
    assert upload(page, bytes(MAX_BYTES + 1_000_000))[0] == 413
    assert {path for path in set(page.folder.rglob("*")) - before if path.is_file() and path.stat().st_size} == set()
    status, _, body = upload(page, bytes(1000))
    assert status == 200
    assert Path(json.loads(body)[0]).resolve().is_relative_to(page.folder.resolve())


@pytest.mark.parametrize("name", ["page.html", "drawing.svg"])
def test_an_upload_is_shown_but_never_run(page: SimpleNamespace, name: str) -> None:
    path = json.loads(upload(page, b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", name)[2])[0]
    status, headers, _ = ask(page, "GET", f"/gradio_api/file={path}")
    assert status == 200
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow  # it waits
def test_uploads_are_deleted_after_a_while_and_the_examples_are_not(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet.use.demo import page as page_module

    monkeypatch.setattr(page_module, "SWEEP", 1)
    monkeypatch.setattr(page_module, "KEPT", 1)
    server = serve(network, port=0)
    try:
        other = SimpleNamespace(url=server.url)
        examples = [path for path in server._folder.rglob("*.png") if path.is_file()]
        assert len(examples) == 10
        uploaded = Path(json.loads(upload(other, b"x")[2])[0])
        until = time.monotonic() + 60
        while uploaded.exists() and time.monotonic() < until:
            time.sleep(0.2)
        assert not uploaded.exists()
        assert all(path.is_file() for path in examples)
    finally:
        server.close()
    assert not server._folder.exists()


def test_only_this_machine_can_reach_it(page: SimpleNamespace) -> None:
    assert urlsplit(page.url).hostname == "127.0.0.1"
    assert page.folder.stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken(network: Network) -> None:
    with _listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"^--port {port}: .*in use; --port 0 takes any that is free$"):
            serve(network, port=port)


def test_the_first_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with _listen("127.0.0.1", 0) as taken:
        monkeypatch.setattr(server_module, "PORT", taken.getsockname()[1])
        with _listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] > taken.getsockname()[1]


def test_addresses_that_cannot_be_had() -> None:
    for host, port, says in (
        ("no.such.host.invalid", 0, "--host no.such.host.invalid: no such address"),
        ("203.0.113.7", 0, "--host 203.0.113.7, --port 0: "),
        ("127.0.0.1", 70000, "--port 70000: allowed is 0 to 65535"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
            _listen(host, port)


def test_all_addresses_are_shown_as_one_to_open(network: Network) -> None:
    page = serve(network, "0.0.0.0", 0)
    try:
        assert page.url.startswith("http://127.0.0.1:")
    finally:
        page.close()


def test_without_gradio_it_says_what_to_install(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'alexnet-2012\[demo\]'$"):
        serve(network, port=0)


def test_whoever_sends_without_end_is_cut_off() -> None:
    from alexnet.use.demo.gate import _DRAINED, _read

    sent = []

    async def receive():
        sent.append(10)
        return {"type": "http.request", "body": bytes(10), "more_body": True}

    assert asyncio.run(_read(receive, 100)) is None
    assert 100 * _DRAINED < sum(sent) <= 100 * _DRAINED + 10
