"""This project beside the usual way to train AlexNet at 224×224, measured in turn on one machine.

    python benchmarks/compare.py [--json FILE] [--repeats 3] [--data SPEC]

The baseline is what most repositories do: torchvision's transforms on PIL images, a DataLoader with 4 workers,
float32, channels first, torch.nn.LocalResponseNorm, .item() every step, and each validation done twice, for accuracy
and for loss. Each side lives in a process of its own, so that neither allocator, threads nor caches touch the other;
the sides work in turn, never at once. A ratio above 1 always means that this project is better.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alexnet import hardware, recipes
from alexnet.data import pipeline, sources
from alexnet.data.splits import Images, Pixels
from alexnet.evaluate import Metrics, evaluate
from alexnet.lrn import local_response_norm
from alexnet.model import AlexNet_2012
from alexnet.predict import predict
from alexnet.runfolder import git_commit
from alexnet.session import open_session
from alexnet.summary import summarize
from alexnet.train import cosine

BATCH = 128
LRN_SHAPE = (BATCH, 96, 55, 55)
FILES = 512  # images that inference reads
WORKERS = {"num_workers": 4, "multiprocessing_context": "fork"}  # as on Linux; a spawned side would spawn its own
MEASURES = ("train_step", "validation", "peak_memory", "data_path", "lrn", "inference")
UNITS = {
    "train_step": "s",
    "matrix_rate_share": "%",
    "data_path": "images/s",
    "lrn": "ms",
    "validation": "s",
    "classic_job": "s",
    "inference": "images/s",
    "peak_memory": "GiB",
}
MORE_IS_BETTER = {"matrix_rate_share", "data_path", "inference"}


def load(spec: str) -> sources.Source:
    """A data set with its images decoded, as CIFAR-10 is kept; ``synthetic`` is noise of CIFAR-10's shape."""
    if spec != "synthetic":
        source = sources.load(spec)
        return replace(source, train=decoded(source.train), val=decoded(source.val))
    random = np.random.default_rng(0)

    def split(count: int) -> Images:
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Images(random.integers(0, 10, count), Pixels(pixels, "noise"))

    names = tuple(str(n) for n in range(10))
    return sources.Source(spec, "synthetic 32×32", names, split(50_000), split(10_000), "test", flip=True)


def decoded(images: Images) -> Images:
    array = images.array()
    return images if array is None else Images(images.labels, Pixels(array, "decoded"))


class Baseline:
    """The usual way."""

    def __init__(self, spec: str, device: torch.device, files: list[Path]) -> None:
        self.device, self.files = device, files
        self.quick = device.type == "cuda"
        self.source = source = load(spec)
        mean, std = pipeline.IMAGENET_MEAN, pipeline.IMAGENET_STD
        last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        flip = [transforms.RandomHorizontalFlip()]
        train = [transforms.Resize(256), transforms.RandomResizedCrop(224, scale=(0.8, 1.0)), *flip, *last]
        self.eval_transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *last])
        self.loader = self._loader(Pictures(source.train, transforms.Compose(train)), shuffle=True)
        self.val_loader = self._loader(Pictures(source.val, self.eval_transform), shuffle=False)
        torch.manual_seed(0)
        self.net = AlexNet_2012(len(source.classes), init="zero-bias").to(device)
        for name in ("norm1", "norm2"):
            setattr(self.net.features, name, nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 5083)
        self.train_batches = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def _loader(self, images: Dataset, *, shuffle: bool) -> DataLoader:
        return DataLoader(images, BATCH, shuffle=shuffle, pin_memory=self.quick, **WORKERS)

    def train_step(self) -> float:
        steps = 30 if self.quick else 4

        def work() -> None:
            self.net.train()
            for _ in range(steps):
                images, labels = (t.to(self.device) for t in next(self.train_batches))
                self.optimizer.zero_grad()
                logits = self.net(images)
                loss = cross_entropy(logits, labels)
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                loss.item(), (logits.argmax(1) == labels).sum().item()

        return clock(self.device, work) / steps

    def data_path(self) -> float:
        batches = 40 if self.quick else 16
        feed = iter(self.loader)
        next(feed)  # the workers have started
        return BATCH * batches / clock(self.device, lambda: take(feed, batches))

    def lrn(self) -> float:
        x = torch.randn(LRN_SHAPE, device=self.device).relu().requires_grad_()
        norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
        return lrn_milliseconds(x, norm)

    @torch.no_grad()
    def validation(self) -> float:
        self.net.eval()
        count = len(self.val_loader) - 1 if self.quick else 6
        seen, seconds = 0, 0.0
        for _ in range(2):  # once for accuracy, once for loss
            feed = iter(self.val_loader)
            next(feed)  # the workers have started

            def work(feed: Any = feed) -> None:
                nonlocal seen
                for images, labels in itertools.islice(feed, count):
                    logits = self.net(images.to(self.device))
                    cross_entropy(logits, labels.to(self.device)).item()
                    seen += len(labels)

            seconds += clock(self.device, work)
        return seconds * 2 * len(self.source.val) / seen

    @torch.no_grad()
    def inference(self) -> float:
        self.net.eval()
        loader = DataLoader(Files(self.files, self.eval_transform), BATCH, **WORKERS)
        return len(self.files) / clock(
            self.device, lambda: [self.net(x.to(self.device)).argmax(1).tolist() for x in loader]
        )

    def peak_memory(self) -> float:
        return peak_memory(self.device)


class Pictures(Dataset):
    """Images of a source as the transform wants them."""

    def __init__(self, images: sources.Images, transform: Callable) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images.image(i)), int(self.images.labels[i])


class Files(Dataset):
    """Images of files."""

    def __init__(self, files: list[Path], transform: Callable) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[i]).convert("RGB"))


class Ours:
    """What ``alexnet train classic`` does, by the same parts."""

    def __init__(self, spec: str, device: torch.device, files: list[Path]) -> None:
        hardware.keep_freed_memory()
        self.device, self.files = device, files
        self.quick = device.type == "cuda"
        source = load(spec)
        self.s = open_session(recipes.classic(), Path(), source, device)
        self.s.net.card = self.s.card
        self.feed = self.s.batches.train(0)

    def train_step(self) -> float:
        steps = 200 if self.quick else 8
        s = self.s

        def work() -> None:
            s.model.train()
            for step, (images, labels) in zip(range(steps), self.feed, strict=False):
                for group in s.optimizer.param_groups:
                    group["lr"] = cosine(step, 5083, 0.01)
                logits = s.model(images)
                loss = cross_entropy(logits, labels)
                s.accelerator.backward(loss)
                grad_norm = s.accelerator.clip_grad_norm_(s.net.parameters(), 1.0)
                s.optimizer.step()
                s.optimizer.zero_grad()
                s.running.add(loss.detach(), logits.detach(), labels, grad_norm, step + 1)

        if self.quick:
            self.feed = s.batches.train(0)
        return clock(self.device, work) / steps

    def data_path(self) -> float:
        batches = 300 if self.quick else 40
        feed = self.s.batches.train(0)
        next(feed)
        return BATCH * batches / clock(self.device, lambda: take(feed, batches))

    def lrn(self) -> float:
        dtype = torch.bfloat16 if self.s.accelerator.mixed_precision == "bf16" else torch.float32
        x = torch.randn(LRN_SHAPE, device=self.device, dtype=dtype).relu()
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        norm = torch.compile(local_response_norm) if self.s.compiled else local_response_norm
        return lrn_milliseconds(x, norm)

    def validation(self) -> float:
        metrics = Metrics(10, self.device)
        batches = self.s.batches.val() if self.quick else itertools.islice(self.s.batches.val(), 8)
        seconds = clock(self.device, lambda: evaluate(self.s.model, batches, metrics))
        return seconds * len(self.s.source.val) / int(metrics.confusion.sum())

    def inference(self) -> float:
        self.s.net.eval()
        return len(self.files) / clock(
            self.device, lambda: list(predict(self.s.net, self.files, device=self.device.type))
        )

    def peak_memory(self) -> float:
        return peak_memory(self.device)

    def copy_rate(self) -> float:
        """GB/s read and written by copying a tensor of response normalisation's shape: what it is held against."""
        x = torch.randn(LRN_SHAPE, device=self.device, dtype=torch.bfloat16)
        y = torch.empty_like(x)
        count = 200 if self.quick else 10
        y.copy_(x)
        return 2 * x.nbytes * count / clock(self.device, lambda: [y.copy_(x) for _ in range(count)]) / 1e9

    def matrix_rate(self) -> float:
        """TFLOP/s of one large bf16 product: the rate that a step is held against."""
        n = 8192 if self.quick else 4096
        a, b = (torch.randn(n, n, device=self.device).bfloat16() for _ in range(2))
        a @ b
        return 2 * n**3 / clock(self.device, lambda: a @ b) / 1e12


def clock(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of ``work``, the device's own work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def take(feed: Iterator[Any], count: int) -> None:
    """Use up so many batches, one at a time, as training does."""
    for _ in range(count):
        next(feed)


def lrn_milliseconds(x: torch.Tensor, norm: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Milliseconds of one forward and backward."""
    grad = torch.randn_like(x)
    count = 50 if x.device.type == "cuda" else 3

    def work() -> None:
        for _ in range(count):
            x.grad = None
            norm(x).backward(grad)

    work()
    return 1000 * clock(x.device, work) / count


def peak_memory(device: torch.device) -> float:
    """GiB at the most so far: of the device, or of this process and, now, its workers (shared pages counted once)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + sum(proportional_set(child.pid or 0) for child in multiprocessing.active_children())) / 2**20


def proportional_set(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def serve(kind: type, pipe: Connection, *arguments: Any) -> None:
    """Be one side: take the name of a measure, answer with its figure."""
    side = kind(*arguments)
    pipe.send("ready")
    while (name := pipe.recv()) != "stop":
        pipe.send(getattr(side, name)())


def measure(spec: str, device: torch.device, repeats: int, files: list[Path]) -> dict[str, dict[str, list[float]]]:
    """Every measure of both sides, ``repeats`` times in turn after one that does not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, kind in (("baseline", Baseline), ("ours", Ours)):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(kind, other, spec, device, files)))
        processes[-1].start()
        assert pipes[name].recv() == "ready"

    def ask(side: str, what: str) -> float:
        pipes[side].send(what)
        value = float(pipes[side].recv())
        print(f"  {what:12} {side:9} {value:10.4g}", flush=True)
        return value

    figures: dict[str, dict[str, list[float]]] = {what: {"ours": [], "baseline": []} for what in MEASURES}
    figures |= {rate: {"ours": [], "baseline": []} for rate in ("matrix_rate", "copy_rate")}
    for what in MEASURES:
        times = 1 if what == "peak_memory" else repeats
        warm_up = what in ("train_step", "inference")
        for repeat in range(times + warm_up):
            for side in ("ours", "baseline"):
                value = ask(side, what)
                if repeat >= warm_up:
                    figures[what][side].append(value)
            if what == "train_step":
                figures["matrix_rate"]["ours"].append(ask("ours", "matrix_rate"))
            if what == "lrn":
                figures["copy_rate"]["ours"].append(ask("ours", "copy_rate"))
    for pipe in pipes.values():
        pipe.send("stop")
    for process in processes:
        process.join(30)
        process.kill()
    return figures


def training_flop() -> float:
    """Operations to train on one image: forward, and both backward products but conv1's for its input."""
    layers = summarize("classic", 10)["layers"]
    total = sum(layer["multiply_adds"] for layer in layers)
    first = next(layer["multiply_adds"] for layer in layers if layer["multiply_adds"])
    return 2.0 * (3 * total - first)


def copy_share(figures: dict[str, dict[str, list[float]]]) -> float:
    """Percent of the copy bandwidth that our response normalisation reaches: it cannot do with less than 5 passes."""
    count = LRN_SHAPE[0] * LRN_SHAPE[1] * LRN_SHAPE[2] * LRN_SHAPE[3]
    seconds = statistics.median(figures["lrn"]["ours"]) / 1000
    moved = 5 * 2 * count  # bf16: x read, y written; x and the gradient read, the other gradient written
    return 100 * moved / seconds / 1e9 / statistics.median(figures["copy_rate"]["ours"])


def full_job(spec: str, device: torch.device) -> float:
    """Seconds of ``alexnet train classic``, start to end, in a process of its own."""
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "alexnet", "train", "classic", "--data", spec, "--tracker", "none"]
        began = time.perf_counter()
        subprocess.run([*command, "--device", device.type, "--out", f"{folder}/run"], check=True)
        return time.perf_counter() - began


def to_rows(figures: dict[str, dict[str, list[float]]], job: list[float]) -> list[dict[str, Any]]:
    """One row a measure: medians, spreads, and the ratio that is above 1 where ours is better."""
    flop, rate = training_flop() * BATCH, statistics.median(figures["matrix_rate"]["ours"]) * 1e12
    steps, validations = 5083, 51 + 13 - 1  # the last row is both one of every 100 steps and an epoch's end
    all_figures = {name: dict(sides) for name, sides in figures.items() if name in MEASURES}
    all_figures["matrix_rate_share"] = {
        side: [100 * flop / seconds / rate for seconds in figures["train_step"][side]] for side in ("ours", "baseline")
    }
    all_figures["classic_job"] = {
        side: [
            steps * step + validations * validation
            for step, validation in zip(figures["train_step"][side], figures["validation"][side], strict=True)
        ]
        for side in ("ours", "baseline")
    }
    if job:
        all_figures["classic_job"]["ours"] = job[1:]
    rows = []
    for name, unit in UNITS.items():
        ours, baseline = (statistics.median(all_figures[name][side]) for side in ("ours", "baseline"))
        ratio = ours / baseline if name in MORE_IS_BETTER else baseline / ours
        rows.append(
            {
                "name": name,
                "unit": unit,
                "ours": round(ours, 4),
                "baseline": round(baseline, 4),
                "ratio": round(ratio, 2),
                "ours_all": [round(value, 4) for value in all_figures[name]["ours"]],
                "baseline_all": [round(value, 4) for value in all_figures[name]["baseline"]],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="synthetic", help="images to measure with: a folder; by default noise")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args()
    device = hardware.pick_device(args.device)
    source = load(args.data)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i in range(FILES):
            files.append(Path(folder) / f"{i}.png")
            source.val.image(i % len(source.val)).resize((256, 256)).save(files[-1])
        figures = measure(args.data, device, args.repeats, files)
    in_full = device.type == "cuda" and args.data != "synthetic"
    job = [full_job(args.data, device) for _ in range(3)] if in_full else []  # the first one compiles
    rows = to_rows(figures, job)
    record = {
        "kind": "compare",
        "command": f"python benchmarks/compare.py --repeats {args.repeats} --data FOLDER",
        "data": source.name,
        "hardware": hardware.describe(device)
        | {
            "matrix_tflops_bf16": round(statistics.median(figures["matrix_rate"]["ours"]), 3),
            "copy_gb_per_s": round(statistics.median(figures["copy_rate"]["ours"]), 1),
            "lrn_share_of_copy_pct": round(copy_share(figures), 1),
        },
        "versions": hardware.versions(),
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "notes": "classic_job is 5,083 steps and 63 validations from the measured parts"
        + (
            f", ours run in full, start and imports included; the first one, with its compilation, took {job[0]:.1f} s"
            if job
            else ""
        ),
        "rows": rows,
    }
    print(f"\n{'':18}{'ours':>12}{'baseline':>12}{'ratio':>8}   spread of ours, of baseline")
    for row in rows:
        spreads = ", ".join(f"{min(v):.4g} to {max(v):.4g}" for v in (row["ours_all"], row["baseline_all"]))
        figures = f"{row['ours']:>12.4g}{row['baseline']:>12.4g}{row['ratio']:>8.2f}"
        print(f"{row['name']:18}{figures}   {row['unit']}; {spreads}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
