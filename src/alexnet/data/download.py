"""Downloads that can be trusted: resumed where they broke off, checked before anything reads them, whole or absent.

The hub's library tells where a file is and what its sha256 must be, but the bytes come through `fetch`: the library (as
of 2.4) throws a partial file away when it stops, and an hour on a slow line must not be lost.
"""

import hashlib
import http.client
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

HUB_REPO = "uoft-cs/cifar10"
HUB_FILES = ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet")
HUB_FOLDER = "cifar10"  # under the data folder: the hub's copy, in the hub's layout
TIMEOUT = 30.0  # seconds without a byte
PAUSE = 1.0  # seconds before a broken download goes on
_CHUNK = 1 << 16


class DownloadError(ConnectionError):
    """A file could not be had whole: offline, refused, broken off, or with a wrong checksum. One line."""


def fetch(
    url: str,
    target: Path,
    algorithm: str,
    digest: str,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Download `url` to `target`, which appears only once its checksum is right.

    What has arrived is kept in `target` + ".part"; a broken download goes on from there, by itself for as long as each
    attempt brings something new, and else on the next call.

    Args:
        algorithm, digest: a name that hashlib knows, such as "md5", and the hexadecimal digest the file must have.
        headers: sent to this server only, not to one that it redirects to; they may hold a token.
        timeout: seconds without an answer or a byte before an attempt counts as broken.

    Raises:
        DownloadError: no connection, an error status, or a wrong checksum (the part is then deleted).
        OSError: the disk is full or may not be written.
    """
    if _matches(target, algorithm, digest):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    while True:
        before = _size(part)
        try:
            _receive(url, part, headers or {}, timeout)
            break
        except DownloadError:
            if _size(part) <= before:
                raise
            time.sleep(PAUSE)
    if not _matches(part, algorithm, digest):
        part.unlink()
        raise DownloadError(f"{url}: wrong {algorithm} checksum (expected {digest}); what had arrived was deleted")
    return part.replace(target)


def _receive(url: str, part: Path, headers: Mapping[str, str], timeout: float) -> None:
    """One attempt: append to `part` what is missing in it."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "alexnet-2012"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    for key, value in headers.items():
        request.add_unredirected_header(key, value)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return  # nothing lies beyond what we have: the checksum decides what that is
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {_reason(error)}") from error
    with response:
        if not (response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")):
            have = 0  # the server knows no ranges and sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        try:
            with part.open("ab" if have else "wb") as file, _bar(url, have, total) as bar:
                for chunk in _chunks(url, response):
                    file.write(chunk)
                    bar.update(len(chunk))
        except DownloadError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"cannot write {part}: {error.strerror}") from error
    if total is not None and _size(part) < total:
        raise DownloadError(
            f"{url}: broke off after {_size(part):,} of {total:,} bytes; the next try goes on from there"
        )


def _chunks(url: str, response: Any) -> Iterator[bytes]:
    """The body in pieces; its errors become `DownloadError`, so that they are not taken for errors of the disk."""
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{url}: {_reason(error)}") from error
        if not chunk:
            return
        yield chunk


def _bar(url: str, have: int, total: int | None) -> "tqdm[Any]":
    name = url.rsplit("/", 1)[-1]
    if not sys.stderr.isatty():  # a bar would fill a log file; one line tells what the wait is for
        size = f"{total / 1e6:,.1f} MB" if total else "size unknown"
        print(f"downloading {name}: {size}" + (f", {have / 1e6:,.1f} MB are here" if have else ""), file=sys.stderr)
    return tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=None)


def _matches(path: Path, algorithm: str, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digest


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    """What went wrong, in one short line, without the layers that libraries wrap around it."""
    inner = getattr(error, "reason", None)
    text = str(inner if isinstance(inner, Exception | str) and str(inner) else error) or type(error).__name__
    return " ".join(text.split())[:200]


def fetch_from_hub(repo: str, filename: str, target: Path) -> Path:
    """Download one file of a data set on the Hugging Face hub, checked against the sha256 that the hub states for it.

    HF_ENDPOINT, HF_HUB_OFFLINE and the machine's own login count, as the hub's library reads them.

    Raises:
        DownloadError: as `fetch`; also if the hub cannot be asked, or states no sha256.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, filename, repo_type="dataset")
    try:
        stated = get_hf_file_metadata(url).etag or ""
    except Exception as error:  # its exceptions come from whichever HTTP library its version is built on
        raise DownloadError(f"{url}: {_reason(error)}") from error
    if not re.fullmatch("[0-9a-f]{64}", stated):
        raise DownloadError(f"{url}: the hub states no sha256 for it")
    return fetch(url, target, "sha256", stated, headers=build_hf_headers())


def download_cifar10(data_dir: Path) -> None:
    """Put CIFAR-10 under `data_dir`: the hub's Parquet copy, or else the university's archive, unpacked.

    Raises:
        DownloadError: neither could be had; one line says what was tried and what to do instead.
        OSError: the disk is full or may not be written.
    """
    from huggingface_hub import constants
    from torchvision.datasets import CIFAR10

    archive = data_dir / CIFAR10.filename
    if _matches(archive, "md5", CIFAR10.tgz_md5):  # somebody has carried it here
        return _unpack(archive, data_dir)
    if constants.HF_HUB_OFFLINE:
        tried = ["HF_HUB_OFFLINE is set"]  # whoever asks to stay offline does not want another server asked either
    else:
        try:
            for filename in HUB_FILES:
                fetch_from_hub(HUB_REPO, filename, data_dir / HUB_FOLDER / filename)
            return
        except DownloadError as error:
            tried = [str(error)]
        try:
            return _unpack(fetch(CIFAR10.url, archive, "md5", CIFAR10.tgz_md5), data_dir)
        except DownloadError as error:
            tried.append(str(error))
    raise DownloadError(
        f"CIFAR-10 is not in '{data_dir}' and could not be downloaded ({'; '.join(tried)}). Three ways on: --data-dir "
        f"with a folder that holds {CIFAR10.base_folder}, --data with a folder of images, or --data digits"
    )


def _unpack(archive: Path, data_dir: Path) -> None:
    """Unpack the verified archive beside its place and rename it there. Only the files we know are taken from it."""
    from torchvision.datasets import CIFAR10

    beside = Path(tempfile.mkdtemp(prefix=".cifar10-", dir=data_dir))
    folder = beside / CIFAR10.base_folder
    try:
        folder.mkdir()
        with tarfile.open(archive) as tar:
            for name in cifar10_md5():
                member = tar.extractfile(f"{CIFAR10.base_folder}/{name}")
                assert member is not None, name
                with member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        folder.replace(data_dir / CIFAR10.base_folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def cifar10_md5() -> dict[str, str]:
    """The md5 of every file of the `cifar-10-batches-py` folder, as torchvision has it."""
    from torchvision.datasets import CIFAR10

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    return dict((*CIFAR10.train_list, *CIFAR10.test_list, meta))
