"""Opening one image: every mode, every kind of damage."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from alexnet.data.images import ImageError, open_image, prefetch
from pictures import LFS_POINTER, encoded


def picture(width=24, height=16):
    """Smooth, and different in every corner."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), 255 - x * 200 // width], -1)
    return Image.fromarray(planes.astype(np.uint8))


def refusal(source, name=None):
    """The one line with which `open_image` refuses."""
    with pytest.raises(ImageError) as caught:
        open_image(source, name)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(name or (str(source) if not isinstance(source, bytes) else "image bytes"))
    return text


# What each mode's pixel should look like to a person, worked out by hand.


def over_white(colour, alpha):
    return tuple(c * alpha / 255 + 255 * (1 - alpha / 255) for c in colour)


byte = st.integers(0, 255)
cases = st.one_of(
    st.tuples(st.just("1"), st.sampled_from([0, 255])).map(lambda c: (*c, (c[1],) * 3)),
    st.tuples(st.just("L"), byte).map(lambda c: (*c, (c[1],) * 3)),
    st.tuples(st.just("I;16"), st.integers(0, 65535)).map(lambda c: (*c, (c[1] / 257,) * 3)),
    st.tuples(st.just("LA"), st.tuples(byte, byte)).map(lambda c: (*c, over_white((c[1][0],) * 3, c[1][1]))),
    st.tuples(st.just("RGB"), st.tuples(byte, byte, byte)).map(lambda c: (*c, c[1])),
    st.tuples(st.just("RGBA"), st.tuples(byte, byte, byte, byte)).map(lambda c: (*c, over_white(c[1][:3], c[1][3]))),
)


@given(case=cases, width=st.integers(1, 40), height=st.integers(1, 40))
def test_every_png_mode_looks_as_it_should(case, width, height):
    mode, value, expected = case
    image = open_image(encoded(Image.new(mode, (width, height), value)))
    assert (image.mode, image.size) == ("RGB", (width, height))
    pixels = np.asarray(image).reshape(-1, 3).astype(float)
    assert np.abs(pixels - expected).max() <= 1


def test_a_path_and_its_bytes_give_the_same(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    assert np.array_equal(open_image(path), open_image(path.read_bytes()))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(2, 0)
    for kind in ("PNG", "TIFF", "PPM"):
        seen = np.asarray(open_image(encoded(Image.fromarray(ramp), kind)))
        assert np.abs(seen[..., 0] - ramp / 257.0).max() <= 0.5 + 1e-9, kind
    big_endian = Image.frombytes("I;16B", (64, 2), ramp.astype(">u2").tobytes())
    assert np.array_equal(open_image(encoded(big_endian, "TIFF")), seen)


def test_the_transparent_value_of_sixteen_bit_grey_is_white():
    image = Image.fromarray(np.array([[0, 300, 65535]], np.uint16))
    assert np.asarray(open_image(encoded(image, "PNG", transparency=300)))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_white_are_refused(mode):
    text = refusal(encoded(Image.new(mode, (3, 3), 70_000), "TIFF"), "scan.tif")
    assert "8 or 16 bits" in text


def test_palette_transparency_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert np.asarray(open_image(encoded(image, kind))).tolist() == [[[255, 0, 0], [0, 0, 255]]]
        clear = encoded(image, kind, transparency=1)
        assert np.asarray(open_image(clear)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    inks = {(255, 0, 0, 0): (0, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for ink, expected in inks.items():
        seen = open_image(encoded(Image.new("CMYK", (16, 16), ink), kind)).getpixel((8, 8))
        assert np.abs(np.subtract(seen, expected)).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    image = open_image(data)
    assert image.mode == "RGB"
    assert np.all(np.asarray(image) == (255, 0, 0))


UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation: the transpose that stores a picture so


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_turned(kind, orientation):
    upright = picture(48, 32)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(UNDO[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, kind, exif=exif, quality=95))
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 4
    assert ImageOps.exif_transpose(image).size == (48, 32)  # nobody can turn it twice


@given(junk=st.binary(max_size=80))
@settings(max_examples=50)
def test_unreadable_metadata_does_not_cost_the_image(junk):
    # Pillow reads an orientation out of junk by chance almost never; where it does, the size may be turned.
    image = open_image(encoded(picture(), "JPEG", exif=b"Exif\0\0" + junk))
    assert image.size in ((24, 16), (16, 24))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
FILES = [encoded(NOISE, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")]


@given(data=st.sampled_from(FILES), part=st.floats(0, 0.9))
@settings(max_examples=200)
def test_a_truncated_file_is_refused(data, part):
    refusal(data[: int(len(data) * part)], "half.img")


@given(data=st.sampled_from(FILES), changes=st.lists(st.tuples(st.integers(0, 10_000), byte), min_size=1, max_size=20))
@settings(max_examples=300)
def test_damage_gives_an_image_or_one_line(data, changes):
    broken = bytearray(data)
    for at, value in changes:
        broken[at % len(broken)] = value
    try:
        image = open_image(bytes(broken), "damaged.img")
    except ImageError:
        refusal(bytes(broken), "damaged.img")
    else:
        assert np.asarray(image).shape == (image.height, image.width, 3)


def huge_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("pillows_own", [89_478_485, None, 1])
def test_an_absurdly_large_image_is_refused_whatever_pillows_limit_is(monkeypatch, pillows_own):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_own)
    assert "too large; the limit is" in refusal(huge_png(100_000, 100_000), "bomb.png")


def test_the_limit_of_pixels():
    assert open_image(encoded(picture()), max_pixels=24 * 16).size == (24, 16)
    with pytest.raises(ImageError, match="383 pixels"):
        open_image(encoded(picture()), max_pixels=24 * 16 - 1)


def test_what_is_not_a_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.jpg")
    assert "not a file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "two\nlines.jpg", "two lines.jpg")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert "empty (0 bytes)" in refusal(empty)
    assert "empty (0 bytes)" in refusal(b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.timeout(5)
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a file" in refusal(tmp_path / "pipe.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FILES[1])
    path.chmod(0)
    assert "permission denied" in refusal(path)


@pytest.mark.parametrize(("name", "content", "word"), [
    ("notes.jpg", b"not a picture at all", "JPEG, PNG"),
    ("IMG_0001.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC"),
    ("a.png", LFS_POINTER, "git lfs pull"),
])  # fmt: skip
def test_what_is_no_image_is_told_apart(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    assert word in refusal(path)


def test_postscript_starts_no_interpreter(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(), "EPS"))
    assert "supported format" in refusal(path)


def test_the_file_is_closed_and_the_image_stays(tmp_path):
    path = tmp_path / "a.tif"
    picture().save(path, save_all=True, append_images=[picture()])
    image = open_image(path)
    path.unlink()
    assert np.array_equal(image, picture())
    assert image.resize((5, 5)).size == (5, 5)


def test_importing_the_sources_loads_nothing_heavy():
    heavy = "{'pyarrow', 'sklearn', 'datasets', 'huggingface_hub', 'torchvision', 'torch'}"
    code = f"import sys, alexnet.data.datasets; print({heavy} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_prefetch_keeps_the_order_and_its_distance():
    begun = []
    results = prefetch(lambda item: (begun.append(item), item * item)[1], range(100), most=5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    results.close()
    assert max(begun) <= 8
    assert list(prefetch(str, range(20), most=3)) == [str(item) for item in range(20)]
