"""What 1.28 million training images cost before the first step, and in memory while training.

    python benchmarks/imagenet_scale.py [--images 1281167] [--steps 10] [--folder /tmp] [--json FILE]

ImageNet's shape with tiny pictures: 1,000 classes, JPEGs of 40×30 made here and deleted in the end, once as Parquet in
294 files and once as image files in a folder a class. In a process of its own, as `alexnet train imagenet` does it: the
data are listed, a twenty-fifth of the images held out, and their fingerprint taken (``scan``); the mean image and the
colour components computed; some steps of 128 taken through the loader's workers, with a network of few maps, so that
what is seen is the data's. The same with a hundredth of the images says what grows with them.

Memory is the highest sum over the process and its workers of what only they hold (PSS, shared pages counted once), each
tenth of a second: ``anonymous``, and ``file``, pages of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from alexnet import hardware, recipes
from alexnet.data import datasets
from alexnet.model import VARIANTS
from alexnet.run.session import open_session
from alexnet.train import train_step
from record import origin

CLASSES, SHARDS, VAL, PICTURES, EDGES = 1000, 294, 2000, 997, (40, 30)
WIDTHS = (8, 16, 12, 12, 8, 32, 32)  # of the network, to leave the machine to the data
PART = 100  # the smaller run has this part of the images


def pictures() -> list[bytes]:
    """Different small JPEGs, about 1 kB each."""
    random, out = np.random.default_rng(0), []
    for _ in range(PICTURES):
        file = io.BytesIO()
        pixels = random.integers(0, 256, (EDGES[1], EDGES[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((8, 6)).resize(EDGES).save(file, "JPEG", quality=90)
        out.append(file.getvalue())
    return out


def make_files(folder: Path, images: int) -> None:
    """FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG, named as in ImageNet."""
    kinds = pictures()
    for split, count in (("train", images), ("val", VAL)):
        for label in range(CLASSES):
            name = f"n{label:08}"
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(label, count, CLASSES):
                (place / f"{name}_{i}.JPEG").write_bytes(kinds[i % PICTURES])


def make_parquet(folder: Path, images: int) -> None:
    """As the hub has it: files of one split with groups of 100 rows, the classes mixed."""
    kinds, names = pictures(), [f"n{label:08}" for label in range(CLASSES)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (folder / "data").mkdir(parents=True)
    for split, count, shards in (("train", images, SHARDS), ("validation", VAL, 14)):
        for shard in range(shards):
            own = range(shard, count, shards)
            rows = [{"bytes": kinds[i % PICTURES], "path": f"{names[i % CLASSES]}_{i}.JPEG"} for i in own]
            labels = pa.array([i % CLASSES for i in own], pa.int64())
            table = pa.table({"image": pa.array(rows, struct), "label": labels}).replace_schema_metadata(metadata)
            path = folder / "data" / f"{split}-{shard:05}-of-{shards:05}.parquet"
            pq.write_table(table, path, row_group_size=100, use_dictionary=["label"], compression="none")


MAKE = {"parquet": make_parquet, "files": make_files}


def processes(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


class Watched(threading.Thread):
    """The highest memory of this process and its children, in MB, by kind."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.over = {"anonymous": 0.0, "file": 0.0}, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            held = {"anonymous": 0.0, "file": 0.0}
            try:
                for pid in processes(os.getpid()):
                    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                        name, value, _ = line.split()
                        if name in ("Pss_Anon:", "Pss_Shmem:", "Pss_File:"):
                            held["file" if name == "Pss_File:" else "anonymous"] += int(value) / 1e3
            except OSError:  # a process has just ended
                continue
            self.highest = {kind: max(value, self.highest[kind]) for kind, value in held.items()}


def measure(folder: Path, steps: int, holdout: int) -> dict[str, Any]:
    """Be the process that is measured."""
    torch.set_num_threads(1)
    hardware.keep_freed_memory()
    VARIANTS["paper"] = dataclasses.replace(VARIANTS["paper"], widths=WIDTHS)  # type: ignore[index]
    recipe = recipes.imagenet(data=str(folder), holdout=holdout, tracker="none", device="cpu")
    watched, times = Watched(), {}
    watched.start()

    began = time.perf_counter()
    whole = datasets.load(recipe.data)
    times["listed"] = time.perf_counter() - began
    dataset = whole.with_holdout(holdout)
    times["held out"] = time.perf_counter() - began
    fingerprint = dataset.fingerprint()
    times["scan"] = time.perf_counter() - began
    session = open_session(recipe, folder / "run", dataset, torch.device("cpu"))
    times["scan and statistics"] = time.perf_counter() - began
    feed = session.batches_from_here()
    for _ in range(steps):
        loss = train_step(session, *next(feed))
    times["scan, statistics and steps"] = time.perf_counter() - began
    watched.over.set()
    watched.join()
    session.close()
    return {
        "images": len(dataset.train) + len(dataset.val),
        "seconds": {name: round(value, 2) for name, value in times.items()},
        "highest_mb": {kind: round(value) for kind, value in watched.highest.items()},
        "fingerprint": fingerprint,
        "loss": float(loss),
    }


def measured(kind: str, folder: Path, images: int, steps: int) -> list[dict[str, Any]]:
    """Make the images and measure twice: the first time fills the caches that the second finds."""
    began = time.perf_counter()
    MAKE[kind](folder / "images", images)
    print(f"{kind}: {images:,} images made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    place = {"HF_DATASETS_CACHE": str(folder / "copy"), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    place["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    words = [__file__, "--measure", str(folder / "images"), "--steps", str(steps), "--images", str(images)]
    runs = []
    for when in ("first", "again"):
        found = subprocess.run(
            [sys.executable, *words], env=os.environ | place, stdout=subprocess.PIPE, check=True, text=True
        )
        runs.append({"kind": kind, "when": when} | json.loads(found.stdout.splitlines()[-1]))
        times, memory = runs[-1]["seconds"], runs[-1]["highest_mb"]
        print(
            f"{kind:8} {runs[-1]['images']:9,} images, {when}: scan {times['scan']:6.1f} s, "
            f"to step {steps} {times['scan, statistics and steps']:6.1f} s; "
            f"memory {memory['anonymous']:,} MB and {memory['file']:,} MB of files"
        )
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as docs/scale.md has them."""
    rows = [
        "| images | run | scan, s | to the last step, s | memory, MB | mapped files, MB |",
        "|---|---|" + "---:|" * 4,
    ]
    for run in runs:
        times, memory = run["seconds"], run["highest_mb"]
        figures = (times["scan"], times["scan, statistics and steps"], memory["anonymous"], memory["file"])
        rows.append(
            f"| {run['images']:,} in {run['kind']} | {run['when']} | " + " | ".join(f"{x:,.0f}" for x in figures) + " |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="12 GB and 1.3 million files")
    parser.add_argument("--note", default="", help="what else the record must say of the machine")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps, args.images // 25)))
        return
    command = f"python benchmarks/imagenet_scale.py --images {args.images} --steps {args.steps}"
    runs = []
    for kind in MAKE:
        for images in (args.images // PART, args.images):
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                runs += measured(kind, Path(folder), images, args.steps)
                if args.json:  # before a million files are deleted
                    record = {"kind": "imagenet_scale", "command": command, "note": args.note}
                    record |= {**origin(torch.device("cpu")), "runs": runs}
                    args.json.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    print("\n" + table(runs))


if __name__ == "__main__":
    main()
