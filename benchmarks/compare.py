"""Speed of this project and of plain PyTorch code for AlexNet at 224×224, measured in turn on one machine.

    python benchmarks/compare.py [--json FILE] [--repeats 3] [--data SPEC] [--device cpu]
    python benchmarks/compare.py --time-to 56.3 --data SPEC --json results/time-to-56.3-cpu.json

The baseline does what the code of the published run does (github.com/ajheshbasnet/ClassicCNNs): torchvision's
transforms on PIL images, a DataLoader (here with a worker for each core, up to 4), float32, channels first,
torch.nn.LocalResponseNorm, .item() every step, and two passes over the validation images every 100 steps, one for
accuracy and one for loss. This project's side is a run of ``alexnet.train``. Each side has a process of its own, and
they work in turn, never at the same time. A ratio above 1 means that this project is better.

The second form trains the recipe ``sprint`` with seeds 0, 1 and 2 and compares its time, if all end above an accuracy,
with that of the baseline's 13 epochs, which is computed from its step and validation, measured in the same call.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from alexnet import load_model, recipes, system, train
from alexnet.data import datasets
from alexnet.data.datasets import Images, Pixels
from alexnet.data.loaders import Shard, open_loader
from alexnet.data.normalization import IMAGENET, make_normalization
from alexnet.evaluate import predict
from alexnet.lrn import local_response_norm
from alexnet.model import AlexNet_2012
from alexnet.tools.summary import summarize
from alexnet.train import Callback
from record import GrowingRecord, origin, write_record

BATCH = 128
LRN_SHAPE = (BATCH, 96, 55, 55)
FILES = 512  # images for inference
VALIDATED = 10_000  # images that a validation's time is given for
STEPS, HUNDREDS, EPOCHS = 5083, 50, 13  # of the classic job, which validates every 100 steps and after each epoch
WORKERS = {"num_workers": min(4, os.cpu_count() or 1), "multiprocessing_context": "fork"}
UNITS = {
    "train_step": "s", "matrix_rate_share": "%", "data_path": "images/s", "lrn": "ms", "lrn_float32": "ms",
    "validation": "s", "classic_job": "s", "classic_job_one_pass": "s", "inference": "images/s", "peak_memory": "GiB",
}  # fmt: skip
MORE_IS_BETTER = {"matrix_rate_share", "data_path", "inference"}
Measurements = dict[str, dict[str, list[float]]]  # values by measure and side


# --- the baseline


class Pictures(TorchDataset):
    """Images for the baseline: ``images[i]`` is a PIL image."""

    def __init__(self, image: Callable[[int], Image.Image], labels: Any, transform: Callable) -> None:
        self.image, self.labels, self.transform = image, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.image(i)), int(self.labels[i])


def pictures(images: Images, transform: Callable) -> Pictures:
    """A split with its images decoded, as torchvision's CIFAR10 has them."""
    array = images.array()
    return Pictures(images.image if array is None else lambda i: Image.fromarray(array[i]), images.labels, transform)


class Baseline:
    """What the code of the published run does."""

    def __init__(self, spec: str, device: torch.device, files: list[Path]) -> None:
        self.device, self.quick = device, device.type == "cuda"
        dataset = load(spec)
        last = [transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
        crop = transforms.RandomResizedCrop(224, scale=(0.8, 1.0))
        training = transforms.Compose([transforms.Resize(256), crop, transforms.RandomHorizontalFlip(), *last])
        evaluation = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *last])
        self.loader = self._loader(pictures(dataset.train, training), shuffle=True)
        self.val_loader = self._loader(pictures(dataset.val, evaluation))
        self.files = self._loader(
            Pictures(lambda i: Image.open(files[i]).convert("RGB"), range(len(files)), evaluation)
        )
        torch.manual_seed(0)
        self.net = AlexNet_2012(len(dataset.classes), init="zero-bias").to(device)
        for name in ("norm1", "norm2"):
            setattr(self.net.features, name, nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
        for layer in self.net.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = True  # as in the published code
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.batches = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def _loader(self, images: TorchDataset, *, shuffle: bool = False) -> DataLoader:
        return DataLoader(images, BATCH, shuffle=shuffle, pin_memory=self.quick, **WORKERS)

    def train_step(self) -> float:
        steps = 30 if self.quick else 4
        if self.quick:  # what the workers have prepared meanwhile
            for _ in range(2 * WORKERS["num_workers"]):  # type: ignore[call-overload]
                next(self.batches)

        def work() -> None:
            self.net.train()
            for _ in range(steps):
                images, labels = (t.to(self.device) for t in next(self.batches))
                self.optimizer.zero_grad()
                logits = self.net(images)
                loss = cross_entropy(logits, labels)
                loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                loss.item(), (logits.argmax(1) == labels).sum().item()

        return seconds_of(self.device, work) / steps

    @torch.no_grad()
    def validation(self) -> float:
        self.net.eval()
        count = len(self.val_loader) - 1 if self.quick else 6
        seen, seconds = 0, 0.0
        for _ in range(2):  # for accuracy, for loss
            batches = iter(self.val_loader)
            next(batches)  # the workers have started

            def work(batches: Any = batches) -> None:
                nonlocal seen
                for images, labels in itertools.islice(batches, count):
                    cross_entropy(self.net(images.to(self.device)), labels.to(self.device)).item()
                    seen += len(labels)

            seconds += seconds_of(self.device, work)
        return seconds * 2 * VALIDATED / seen

    def data_path(self) -> float:
        return images_per_second(iter(self.loader), 40 if self.quick else 16, self.device)

    def lrn(self) -> float:
        x = torch.randn(LRN_SHAPE, device=self.device).relu().requires_grad_()
        return lrn_milliseconds(x, nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))

    @torch.no_grad()
    def inference(self) -> float:
        self.net.eval()
        batches = (images for images, _ in self.files)
        work = seconds_of(self.device, lambda: [self.net(x.to(self.device)).argmax(1).tolist() for x in batches])
        return len(self.files.dataset) / work  # type: ignore[arg-type]


def measure_baseline(
    pipe: Connection, spec: str, device: torch.device, files: list[Path], rounds: int, folder: str
) -> None:
    """The baseline's process: a dict of numbers at each turn."""
    side = Baseline(spec, device, files)
    for first in (True, *[False] * (rounds - 1)):
        pipe.recv()
        measured = {"train_step": side.train_step(), "validation": side.validation()}
        pipe.send(measured | ({"peak_memory": peak_memory(device)} if first else {}))
    for _ in range(rounds):
        pipe.recv()
        lrn = side.lrn()
        pipe.send({"data_path": side.data_path(), "lrn": lrn, "lrn_float32": lrn, "inference": side.inference()})


# --- this project


class Rounds(Callback):
    """Sends the times of each row, and waits for the next turn."""

    def __init__(self, pipe: Connection, steps: int) -> None:
        self.pipe, self.steps, self.validations = pipe, steps, 1

    def start(self, run: train.RunInfo) -> None:
        self.run = run
        self.pipe.recv()

    def row(self, row: dict[str, float]) -> None:
        if "val_seconds" not in row:  # an epoch's end between two rounds; the next row includes its validation
            self.validations += 1
            return
        per_image = row["val_seconds"] / len(self.run.dataset.val) / self.validations
        self.validations = 1
        measured = {"train_step": row["seconds"] / self.steps, "validation": per_image * VALIDATED}
        if row["step"] == self.steps:
            measured["peak_memory"] = peak_memory(next(self.run.model.parameters()).device)
        self.pipe.send(measured)
        self.pipe.recv()


def measure_ours(
    pipe: Connection, spec: str, device: torch.device, files: list[Path], rounds: int, folder: str
) -> None:
    """This project's process: a dict of numbers at each turn."""
    quick = device.type == "cuda"
    steps = 90 if quick else 8
    recipe, dataset = recipes.classic(val_every=steps), load(spec)
    runtime = recipes.Runtime(max_steps=steps * rounds, device=device.type, tracker="none", quiet=True, save_every=1e9)
    out = Path(folder) / "run"
    train.run(recipe, dataset, out, runtime=runtime, callbacks=[Rounds(pipe, steps)])

    model, dataset = load_model(out), dataset.prepare(recipe)
    norm = make_normalization(recipe.input_scale, dataset.train)
    loader = open_loader(dataset, recipe, runtime, norm, 224, device, Shard(0, 1))
    is_bf16 = system.pick_precision("auto", device) == "bf16"
    norm_layer = torch.compile(local_response_norm) if quick and system.can_compile(device) else local_response_norm

    def lrn(dtype: torch.dtype) -> float:
        x = torch.randn(LRN_SHAPE, device=device, dtype=dtype).relu().to(memory_format=torch.channels_last)
        return lrn_milliseconds(x.requires_grad_(), norm_layer)

    for turn in range(rounds):
        if turn:  # Rounds has waited for the first turn
            pipe.recv()
        measured = {
            "data_path": images_per_second(loader.train(0), 300 if quick else 40, device),
            "lrn": lrn(torch.bfloat16 if is_bf16 else torch.float32),
            "lrn_float32": lrn(torch.float32),
            "inference": len(files) / seconds_of(device, lambda: list(predict(model, files, device=device.type))),
            "copy_rate": copy_rate(device),
            "matrix_rate": matrix_rate(device),
        }
        pipe.send(measured)


def copy_rate(device: torch.device) -> float:
    """GB/s read and written when a tensor of ``LRN_SHAPE`` is copied."""
    x = torch.randn(LRN_SHAPE, device=device, dtype=torch.bfloat16)
    y = x.clone()
    count = 200 if device.type == "cuda" else 10
    return 2 * x.nbytes * count / seconds_of(device, lambda: [y.copy_(x) for _ in range(count)]) / 1e9


def matrix_rate(device: torch.device) -> float:
    """TFLOP/s of one large bf16 matrix product."""
    n = 8192 if device.type == "cuda" else 4096
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    a @ b
    return 2 * n**3 / seconds_of(device, lambda: a @ b) / 1e12


# --- what both sides use


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes, including what it queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def images_per_second(batches: Iterator[Any], count: int, device: torch.device) -> float:
    next(batches)  # workers have started

    def take() -> None:
        for _ in range(count):
            next(batches)

    return BATCH * count / seconds_of(device, take)


def lrn_milliseconds(x: Tensor, norm: Callable[[Tensor], Tensor]) -> float:
    """Milliseconds of one forward and backward pass."""
    grad = torch.randn_like(x)
    count = 50 if x.device.type == "cuda" else 3

    def work() -> None:
        for _ in range(count):
            x.grad = None
            norm(x).backward(grad)

    work()
    return 1000 * seconds_of(x.device, work) / count


def peak_memory(device: torch.device) -> float:
    """GiB at the peak so far: of the device, or of this process plus what its workers do not share with others."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for child in multiprocessing.active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / 2**20


def load(spec: str) -> datasets.Dataset:
    """A data set; ``synthetic`` is noise in CIFAR-10's shape."""
    if spec != "synthetic":
        return datasets.load(spec)
    random = np.random.default_rng(0)

    def split(count: int) -> Images:
        pixels = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Images(random.integers(0, 10, count), Pixels(pixels, "noise"))

    return datasets.Dataset(spec, "synthetic 32×32", tuple("0123456789"), split(50_000), split(2_000), "test")


# --- the comparison


def measure(spec: str, device: torch.device, repeats: int, files: list[Path], folder: str) -> Measurements:
    """All measures of both sides, ``repeats`` times in turn after a first round that does not count."""
    context = multiprocessing.get_context("spawn")
    rounds = repeats + 1
    pipes: dict[str, Connection] = {}
    processes = []
    for side, work in (("ours", measure_ours), ("baseline", measure_baseline)):
        pipes[side], other = context.Pipe()
        processes.append(context.Process(target=work, args=(other, spec, device, files, rounds, folder)))
        processes[-1].start()
        other.close()  # if the process ends, so does the waiting for it
    measured: Measurements = {}
    try:
        for turn in range(2 * rounds):
            for side, pipe in pipes.items():
                pipe.send("go")
                for name, value in pipe.recv().items():
                    print(f"  {name:12} {side:9} {value:10.4g}", flush=True)
                    if turn % rounds or name == "peak_memory":
                        measured.setdefault(name, {"ours": [], "baseline": []})[side].append(value)
    finally:
        for process in processes:
            process.join(60 if sys.exc_info()[0] is None else 0)
            process.kill()
    return measured


def training_flop() -> float:
    """Operations to train on one image: the forward pass, and both backward products except conv1's for its input."""
    counts = [layer["multiply_adds"] for layer in summarize("classic", 10)["layers"] if layer["multiply_adds"]]
    return 2.0 * (3 * sum(counts) - counts[0])


def full_job(spec: str, device: torch.device) -> float:
    """Seconds of ``alexnet train classic`` from start to end, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "alexnet", "train", "classic", "--data", spec, "--tracker", "none"]
        began = time.perf_counter()
        subprocess.run([*command, "--device", device.type, "--out", f"{folder}/run"], check=True)
        return time.perf_counter() - began


def to_rows(measured: Measurements, job: list[float], bytes_per_value: int = 2) -> list[dict[str, Any]]:
    """One row per measure: medians, all values, and the ratio, which is above 1 if ours is better."""
    sides = ("ours", "baseline")
    flop, rate = training_flop() * BATCH, statistics.median(measured["matrix_rate"]["ours"]) * 1e12
    values = {name: dict(each) for name, each in measured.items()}
    values["matrix_rate_share"] = {
        side: [100 * flop / seconds / rate for seconds in measured["train_step"][side]] for side in sides
    }
    for name, passes in (("classic_job", 2 * HUNDREDS + EPOCHS), ("classic_job_one_pass", HUNDREDS + EPOCHS)):
        validations = {"ours": HUNDREDS + EPOCHS, "baseline": passes / 2}  # the baseline's is timed over two passes
        values[name] = {
            side: [
                STEPS * step + validations[side] * validation
                for step, validation in zip(measured["train_step"][side], measured["validation"][side], strict=True)
            ]
            for side in sides
        }
        if job:
            values[name]["ours"] = job[1:]
    moved = 5 * bytes_per_value * LRN_SHAPE[0] * LRN_SHAPE[1] * LRN_SHAPE[2] * LRN_SHAPE[3]  # five passes at least
    lrn_rate = moved / (statistics.median(measured["lrn"]["ours"]) / 1000) / 1e9
    share = {"share_of_copy_pct": round(100 * lrn_rate / statistics.median(measured["copy_rate"]["ours"]), 1)}
    rows = []
    for name, unit in UNITS.items():
        ours, baseline = (statistics.median(values[name][side]) for side in sides)
        rows.append(
            {
                "name": name,
                "unit": unit,
                "ours": round(ours, 4),
                "baseline": round(baseline, 4),
                "ratio": round(ours / baseline if name in MORE_IS_BETTER else baseline / ours, 2),
                **(share if name == "lrn" else {}),
                **{f"{side}_all": [round(value, 4) for value in values[name][side]] for side in sides},
            }
        )
    return rows


def compare(spec: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """Measure, print a table, and return the record."""
    is_noise, dataset, files = spec == "synthetic", load(spec), []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(FILES):
            files.append(Path(folder) / f"{i}.png")
            dataset.val.image(i % len(dataset.val)).resize((256, 256)).save(files[-1])
        measured = measure(spec, device, repeats, files, folder)
    job = [full_job(spec, device) for _ in range(3)] if device.type == "cuda" and not is_noise else []
    rows = to_rows(measured, job, 2 if system.pick_precision("auto", device) == "bf16" else 4)
    first = f", ours run in full; the first one, with its compilation, took {job[0]:.1f} s" if job else ""
    print_table(rows)
    return {
        "kind": "compare",
        "command": f"python benchmarks/compare.py --repeats {repeats}" + " --data FOLDER" * (not is_noise),
        "data": dataset.name,
        **origin(device),
        "matrix_tflops_bf16": round(statistics.median(measured["matrix_rate"]["ours"]), 3),
        "copy_gb_per_s": round(statistics.median(measured["copy_rate"]["ours"]), 1),
        "notes": "classic_job is 5,083 steps and 63 validations, the baseline's of 113 passes, computed from the "
        f"measured parts{first}",
        "rows": rows,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'':18}{'ours':>12}{'baseline':>12}{'ratio':>8}   spread of ours, of baseline")
    for row in rows:
        spreads = ", ".join(f"{min(v):.4g} to {max(v):.4g}" for v in (row["ours_all"], row["baseline_all"]))
        numbers = f"{row['ours']:>12.4g}{row['baseline']:>12.4g}{row['ratio']:>8.2f}"
        print(f"{row['name']:18}{numbers}   {row['unit']}; {spreads}")


# --- minutes to an accuracy


def time_to(accuracy: float, spec: str, device: torch.device, path: Path | None) -> None:
    """Train ``sprint`` with seeds 0, 1 and 2; with a ratio to the baseline's 13 epochs if all end above ``accuracy``.

    The seconds of a run are those of its steps, its one validation and its test.
    """
    head = {
        "kind": "time-to",
        "command": f"python benchmarks/compare.py --time-to {accuracy:g} --data FOLDER",
        "data": datasets.load(spec).name,
        "accuracy": accuracy,
        "recipe": "sprint",
    }
    record = GrowingRecord(path, head, ("seed",))
    if "baseline" not in record.record:
        side = Baseline(spec, device, [])
        side.train_step()  # the first is slow
        step, validation = (statistics.median(each() for _ in range(3)) for each in (side.train_step, side.validation))
        seconds = STEPS * step + (HUNDREDS + EPOCHS / 2) * validation
        record.record["baseline"] = {"train_step": step, "validation": validation, "seconds": seconds} | origin(device)
        record.write()
    runtime = recipes.Runtime(device=device.type, tracker="none", save_every=1e9)
    for seed in range(3):
        if record.find(seed=seed):
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            final = train.run(recipes.sprint(data=spec, seed=seed), out=f"{folder}/run", runtime=runtime).final
            wall = time.perf_counter() - began
        kept = {name: final[name] for name in ("step", "train_loss", "train_acc", "val_acc", "test_loss", "test_acc")}
        seconds = final["seconds"] + final["val_seconds"]
        record.add({"seed": seed, **kept, "seconds": seconds, "wall_seconds": wall, **origin(device)})
        print(f"seed {seed}: {final['test_acc']:.2f}% in {seconds / 60:.1f} minutes", flush=True)
    seconds = statistics.mean(run["seconds"] for run in record.runs)
    ratio = round(record.record["baseline"]["seconds"] / seconds, 1)
    reached = all(run["test_acc"] > accuracy for run in record.runs)
    record.record |= {"seconds": seconds} | ({"ratio": ratio} if reached else {})
    record.write()
    print(f"{seconds / 60:.1f} minutes, ratio {ratio}" if reached else f"not all seeds end above {accuracy}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="synthetic", help="images to measure with; by default noise")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--time-to", type=float, metavar="PERCENT", help="measure the minutes to this test accuracy")
    args = parser.parse_args()
    device = system.pick_device(args.device)
    if device.type not in ("cpu", "cuda"):
        parser.error(f"--device must be cpu or cuda, got {device.type}")
    if args.time_to is not None:
        if args.data == "synthetic":
            parser.error("--time-to needs --data")
        time_to(args.time_to, args.data, device, args.json)
        return
    record = compare(args.data, device, args.repeats)
    if args.json:
        write_record(args.json, record)


if __name__ == "__main__":
    main()
