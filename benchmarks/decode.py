"""How fast photographs are decoded on one core by each library that could do it, and whether their pixels agree.

    python benchmarks/decode.py [--images 100] [--rounds 5] [--json FILE]

Photographs of 500×375, the usual size in ImageNet, are made here: gradients, shapes and noise, JPEG at quality 90.
Each way goes from the bytes of a file to uint8 RGB, and then twice more with the step that follows in training, the
central 256×256 pixels of the resized image: by Pillow, and by torch as this project does it. It is charged the
processor time of its threads: a rate a core. The ways take turns. Pixels are compared with Pillow's. A library that is
not installed is left out:

    pip install simplejpeg torchcodec
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, features
from PIL import __version__ as pillow_version
from torchvision.transforms import v2

from alexnet.data.images import open_image
from alexnet.data.transforms import as_array, central_patch
from record import origin

SIZE, QUALITY, SHORT_SIDE = (500, 375), 90, 256
BY_PILLOW, BY_TORCH = v2.Compose([v2.Resize(SHORT_SIDE), v2.CenterCrop(SHORT_SIDE)]), central_patch()

Way = Callable[[bytes], np.ndarray]


def photograph(seed: int) -> bytes:
    """A JPEG with the smooth parts, edges and grain of a photograph, about 100 kB as ImageNet's are."""
    random = np.random.default_rng(seed)
    width, height = SIZE
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    slopes = random.uniform(-60, 60, (3, 3))
    smooth = np.stack([128 + a * across + b * down + c * np.sin(3 * across * down) for a, b, c in slopes], -1)
    image = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, w, h = random.uniform(0, 1, 4) * (width, height, width / 3, height / 3)
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(c) for c in random.integers(0, 256, 3)))
    grain = random.normal(0, 12, (height, width, 1)) + random.normal(0, 4, (height, width, 3))
    image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pillow_draft(data: bytes) -> np.ndarray:
    """The smallest of 1/1, 1/2, 1/4 and 1/8 whose sides are 256 at least."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))
    return np.asarray(image.convert("RGB"))


def project(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data))


def torchvision_io(data: bytes) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_jpeg

    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return np.asarray(decode_jpeg(tensor, ImageReadMode.RGB).permute(1, 2, 0))


def simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(data))


def simplejpeg_scaled(data: bytes) -> np.ndarray:
    """The smallest multiple of 1/8 whose sides are 256 at least."""
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(data, min_height=SHORT_SIDE, min_width=SHORT_SIDE, min_factor=1))


def simplejpeg_fast(data: bytes) -> np.ndarray:
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True))


def torchcodec(data: bytes) -> np.ndarray:
    from torchcodec.decoders import decode_jpeg

    return np.asarray(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0))


WAYS: dict[str, Way] = {
    "Pillow": pillow,
    "alexnet.data.images.open_image": project,
    "Pillow, draft mode": pillow_draft,
    "torchvision.io.decode_jpeg": torchvision_io,
    "simplejpeg": simplejpeg,
    "simplejpeg, fast DCT and upsampling": simplejpeg_fast,
    "simplejpeg, scaled": simplejpeg_scaled,
    "torchcodec.decode_jpeg": torchcodec,
}


def resized_by_pillow(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(BY_PILLOW(Image.fromarray(pixels)))


def resized_by_torch(pixels: np.ndarray) -> np.ndarray:
    return as_array(BY_TORCH(Image.fromarray(pixels)))


# What follows on decoding, and with which of Pillow's own rates a rate is compared.
THEN = {"decoded": lambda pixels: pixels, "to 256, Pillow": resized_by_pillow, "to 256, torch": resized_by_torch}
USUAL = {"decoded": "decoded", "to 256, Pillow": "to 256, Pillow", "to 256, torch": "to 256, Pillow"}


def agreement(found: list[np.ndarray], expected: list[np.ndarray]) -> dict[str, Any]:
    """Shape, share of equal values in percent, and the largest difference, over all images."""
    shape = "×".join(map(str, found[0].shape[:2]))
    if found[0].shape != expected[0].shape:
        return {"size": shape}
    gaps = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(found, expected, strict=True)]
    equal = 100 * float(np.mean([(gap == 0).mean() for gap in gaps]))
    return {"size": shape, "equal_pct": equal, "largest_difference": int(max(gap.max() for gap in gaps))}


def measure(files: list[bytes], rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Images a second of processor time and agreement, by way; and why a way was left out."""
    expected, found, absent = [pillow(file) for file in files], {}, {}
    for name, way in WAYS.items():
        try:
            pixels = [way(file) for file in files]  # the round that does not count
        except (ImportError, OSError, RuntimeError) as error:
            absent[name] = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        found[name] = {"rates": {after: [] for after in THEN}, **agreement(pixels, expected)}
    for _ in range(rounds):
        for name, entry in found.items():
            for after, then in THEN.items():
                entry["rates"][after].append(rate(WAYS[name], then, files))
    return found, absent


def rate(way: Way, then: Callable[[np.ndarray], np.ndarray], files: list[bytes]) -> float:
    """Files a second of this process's time on processors."""
    began = time.process_time()
    for file in files:
        then(way(file))
    return round(len(files) / (time.process_time() - began), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = [photograph(seed) for seed in range(args.images)]
    ways, absent = measure(files, args.rounds)
    size = sum(map(len, files)) // args.images
    print(f"{args.images} photographs of 500×375, JPEG quality {QUALITY}, {size:,} bytes each; images/s a core")
    print(f"{'':36}" + "".join(f"{after:>17}" for after in THEN))
    for name, way in ways.items():
        rates = ""
        for after, values in way["rates"].items():
            value, usual = statistics.median(values), statistics.median(ways["Pillow"]["rates"][USUAL[after]])
            rates += f"{value:10.1f} {value / usual:5.2f}×"
        agrees = f"{way['equal_pct']:.2f}% equal, at most {way['largest_difference']} off" if "equal_pct" in way else ""
        print(f"{name:36}{rates}  {way['size']}  {agrees}")
    gaps = np.abs(np.stack([resized_by_torch(x).astype(int) - resized_by_pillow(x) for x in map(pillow, files)]))
    resizing = {"equal_pct": 100 * float((gaps == 0).mean()), "largest_difference": int(gaps.max())}
    print(f"resized by torch and by Pillow: {resizing['equal_pct']:.2f}% equal, at most {gaps.max()} off")
    for name, why in absent.items():
        print(f"{name:36} left out: {why}")
    if args.json:
        installed = importlib.metadata.packages_distributions()
        libraries = {
            name: importlib.metadata.version(name) for name in ("simplejpeg", "torchcodec") if name in installed
        }
        libraries |= {"pillow": pillow_version, "libjpeg-turbo in pillow": features.version("libjpeg_turbo")}
        record = {
            "kind": "decode",
            "command": f"python benchmarks/decode.py --images {args.images} --rounds {args.rounds}",
            "bytes": size,
            **origin(torch.device("cpu")),
            "libraries": libraries,
            "ways": ways,
            "torch's resizing beside Pillow's": resizing,
            "left_out": absent,
        }
        args.json.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
