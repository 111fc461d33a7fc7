"""Opening one image file: every picture that the project reads goes through ``open_image``.

It gives plain RGB as a person would see the picture, or says in one line why it cannot.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["MAX_PIXELS", "ImageError", "is_lfs_pointer", "open_image", "prefetch"]

# Raster formats only: Pillow would also try formats that start another program (EPS) or that have no signature and so
# claim any file (TGA).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, where Pillow turns from a warning to an error

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ImageError(ValueError):
    """An image cannot be used. The message is one line: the file or row, and what is wrong with it."""


def open_image(source: str | Path | bytes, name: str | None = None, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB, turned upright by its EXIF orientation.

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, and only the first frame of an animation is used.

    Args:
        source: a path, or the content of an image file.
        name: what error messages call it; the path by default.
        max_pixels: the limit of width times height.

    Raises:
        ImageError: missing, empty, damaged, truncated, not an image, or more than ``max_pixels`` pixels.
    """
    name = name or ("image bytes" if isinstance(source, bytes) else str(source))
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(Path(source).stat().st_mode):
            raise ImageError("not a file")  # opening a pipe would wait for ever
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_formats()) as image:  # reads no more than the header
            if image.width * image.height > max_pixels:
                raise ImageError(f"{image.width}×{image.height} is too large; the limit is {max_pixels:,} pixels")
            image.load()
            with contextlib.suppress(Exception):  # unreadable metadata says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input, KeyError among it
        raise ImageError(" ".join(f"{name}: {_reason(source, error, max_pixels)}".splitlines())) from error


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file's first bytes are those of a Git LFS pointer, which stands for a file not fetched yet."""
    return content.startswith(b"version https://git-lfs.github.com/spec/")


def prefetch(work: Callable[[_Item], _Result], items: Iterable[_Item], most: int) -> Iterator[_Result]:
    """``work`` of each item, in order, computed by threads up to ``most`` items ahead of the consumer."""
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also if nobody takes the rest
            for future in waiting:
                future.cancel()


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow was built with; it fails on a name that it does not know."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no standard range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own conversion would clip everything above 255 to white
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit integer pixels have no standard range; save it with 8 or 16 bits")
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):  # the value that is transparent
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _reason(source: str | Path | bytes, error: Exception, max_pixels: int) -> str:
    """Why an image could not be opened."""
    if isinstance(error, OSError) and error.strerror:  # from the system; Pillow's own have none
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, Image.DecompressionBombError):
        return f"too large; the limit is {max_pixels:,} pixels"
    if not isinstance(error, UnidentifiedImageError):
        kind = type(error).__name__
        return str(error) if isinstance(error, ImageError) else f"damaged or truncated ({error or kind})"
    if isinstance(source, bytes):
        content, ending = source, ""
    else:
        with Path(source).open("rb") as file:
            content, ending = file.read(100), Path(source).suffix.lower()
    if is_lfs_pointer(content):
        return "a Git LFS pointer, not the image itself; `git lfs pull` fetches it"
    if ending in (".heic", ".heif"):
        return "HEIC is not supported; save it as JPEG or PNG"
    return f"not an image in a supported format ({', '.join(FORMATS)})" if content else "empty (0 bytes)"
