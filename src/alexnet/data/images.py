"""Opening one image: every picture file that the project reads goes through `decoding` or `open_image`.

They give plain RGB the way a person would see the picture, or say in one line why they cannot.
"""

import functools
import io
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

# Raster formats alone: left to itself, Pillow also tries formats that start another program (EPS) or that have no
# signature and so claim any file (TGA).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Twice Pillow's own MAX_IMAGE_PIXELS, which is where Pillow turns from a warning to an error; kept as our own number
# because a program around us may have changed Pillow's.
MAX_PIXELS = 178_956_970
# Pixels that all threads of a process may decode at once: one image of the largest size, fourteen photographs of 12
# million. Decoding takes 4 to 20 bytes a pixel, most where there is transparency.
MAX_PIXELS_AT_ONCE = MAX_PIXELS

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image cannot be used. The message is one line: the file or row, and what is wrong with it."""


def open_image(source: str | Path | bytes, name: str | None = None, *, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a file, or in the bytes of one, as RGB, fully decoded and turned upright by its EXIF orientation.

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Args:
        source: a path, or the content of an image file.
        name: what error messages call it; the path by default.
        most_pixels: a limit below `MAX_PIXELS`, for images from strangers.

    Raises:
        ImageError: missing, empty, damaged, truncated, not an image, or more than `most_pixels` pixels.
    """
    with decoding(source, name, most_pixels) as image:
        return image.copy()


@contextmanager
def decoding(
    source: str | Path | bytes, name: str | None = None, most_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """`open_image` for one thread among many, which makes the image smaller in the block and loses it at its end.

    Until then the image's pixels count against `MAX_PIXELS_AT_ONCE`, and a thread waits here for room; so the block
    must not wait for another thread that opens images. What this same thread opens in it counts, but never waits.
    """
    name = name or ("image bytes" if isinstance(source, bytes) else str(source))
    with ExitStack() as held:
        try:
            image = _decoded(source, most_pixels, held)
        except Exception as error:  # on damaged input Pillow's decoders raise almost anything, KeyError among it
            raise ImageError(" ".join(f"{name}: {_reason(source, error)}".splitlines())) from error
        held.callback(image.close)  # frees its memory before its room, whoever may still refer to it
        yield image


def _decoded(source: str | Path | bytes, most_pixels: int, held: ExitStack) -> Image.Image:
    with Image.open(_readable(source), formats=_formats()) as image:  # reads no more than the header
        pixels = image.width * image.height
        if pixels > most_pixels:
            raise ImageError(_too_large(most_pixels))
        held.enter_context(_AT_ONCE.room_for(pixels))
        image.load()
        return _upright(_to_rgb(image), _orientation(image))


class _Budget:
    """Pixels in use by all threads of this process, `MAX_PIXELS_AT_ONCE` at most."""

    def __init__(self) -> None:
        self.used, self.changed, self.thread = 0, threading.Condition(), threading.local()

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        mine = getattr(self.thread, "used", 0)
        with self.changed:
            if not mine:  # whoever waited while holding some could wait for ever
                self.changed.wait_for(lambda: not self.used or self.used + pixels <= MAX_PIXELS_AT_ONCE)
            self.used += pixels
        self.thread.used = mine + pixels
        try:
            yield
        finally:
            self.thread.used = mine
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


_AT_ONCE = _Budget()
if hasattr(os, "register_at_fork"):  # a worker has none of the threads that hold some now, and nobody to wait for
    os.register_at_fork(after_in_child=_AT_ONCE.__init__)  # type: ignore[misc]


def _readable(source: str | Path | bytes) -> str | io.BytesIO:
    """What `Image.open` is to read; a path is looked at first, because opening a pipe would wait for ever."""
    if isinstance(source, bytes):
        if not source:
            raise ImageError("empty (0 bytes)")
        return io.BytesIO(source)
    found = Path(source).stat()
    if stat.S_ISDIR(found.st_mode):
        raise ImageError("a folder, not an image file")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("not a regular file")
    if found.st_size == 0:
        raise ImageError("empty (0 bytes)")
    return os.fspath(source)


def _reason(source: str | Path | bytes, error: Exception) -> str:
    """Why opening failed, in words for the person whose image it is."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # from the system; Pillow's own have none
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _too_large(MAX_PIXELS)
    if isinstance(error, UnidentifiedImageError):
        if not isinstance(source, bytes) and Path(source).suffix.lower() in (".heic", ".heif"):
            return "HEIC is not supported; save it as JPEG or PNG"
        return f"not an image in a supported format ({', '.join(FORMATS)}), or its header is damaged"
    return f"damaged or truncated ({error or type(error).__name__})"


def _too_large(most_pixels: int) -> str:
    return f"too large: the limit is {most_pixels:,} pixels"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with; it fails on a name that it does not know."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image in any mode as RGB."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey as RGB; Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit integer pixels have no agreed white; save it with 8 or 16 bits")
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    clear = image.info.get("transparency")  # in a grey PNG, one value that means "nothing here"
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # unreadable metadata says nothing about the pixels, so they stay as they are
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _TURNS:
        return image
    turned = image.transpose(_TURNS[orientation])
    turned.info = {}  # it still says "turn me", and somebody would
    return turned


def ahead(work: Callable[[_Item], _Done], items: Iterable[_Item], most: int) -> Iterator[_Done]:
    """``work`` of each item, in order, done in threads up to ``most`` items ahead of whoever takes the results."""
    waiting: deque[Future[_Done]] = deque()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where nobody takes the rest
            for future in waiting:
                future.cancel()
