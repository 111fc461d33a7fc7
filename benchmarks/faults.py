"""Faults done on purpose, and how often the outcome was wrong.

    python benchmarks/faults.py [PART ...] [--trials N] [--json results/faults-cpu.json]

The runs are small: 20 images, a sixteenth of the maps, six steps, a checkpoint after each. After each fault the run is
resumed to its end and compared with one that was left alone: weights, optimizer, random states and rows must be equal
bit for bit. The parts:

- ``kills at random``: SIGKILL at random moments, one to four times before the run may end.
- ``at each call``: at each system call that changes a file, SIGKILL, or the error of a full, failing or read-only disk.
- ``power cuts``: states in which a power cut may leave the disk. A file has what was written before its last fsync, and
  of what was written later all, a part or nothing; the folder has the names that it had at its last fsync, or at any
  moment since. The checkpoint of a save that had returned must be there.
- ``cut checkpoints``, ``flipped bits``: a damaged checkpoint is refused in one line, or loads with its original values.
- ``bad inputs``: mutated files of every kind, and command lines; each gets one line and exit code 1 or 2, or works.

The draws are seeded. The record grows, and a second call continues it. Needs Linux, and strace for ``at each call``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from alexnet.checkpoint import LAST, load_checkpoint
from alexnet.cli import main as alexnet
from alexnet.recipes import flags
from forked import SERVER, Command, Run
from record import GrowingRecord, origin
from runs import COMMAND, MANY, assert_same_run, make_images

KINDS: dict[str, dict[str, Any]] = {"classic's fields": {}, "many fields": MANY}
SHORT = ["--max-steps", "6", "--save-every", "0", "--quiet"]
ERRORS = ("ENOSPC", "EIO", "EROFS")
CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,ftruncate"
Found = dict[str, Any]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Path(folder)


def paused(words: Sequence[str]) -> int:
    """``alexnet WORDS``, after a wait for SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return alexnet(words)


def traced(words: Sequence[str]) -> int:
    """``alexnet WORDS``, with its moments in the file ``trace`` beside the run's folder."""
    moments, code = watch(folder := Path(words[-1])), alexnet(words)
    folder.with_name("trace").write_bytes(pickle.dumps(moments))
    return code


class SmallRun:
    """A run of a kind in ``out``, and the one that was left alone in ``whole``."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.images, self.whole, self.out = folder / "images", folder / "whole", folder / "run"
        self.output = folder / "output"
        make_images(self.images)
        fields = [word for name, value in KINDS[kind].items() for word in flags(name, value)]
        self.words = [*COMMAND, *SHORT, "--data", str(self.images), *fields]
        began = time.monotonic()
        code, said = self.start(out=self.whole).end()
        self.seconds = time.monotonic() - began
        assert code == 0, said

    def start(self, run: Run = alexnet, out: Path | None = None) -> Command:
        """Start the command, or resume it."""
        return Command([*self.words, "--resume", "--out", str(out or self.out)], self.output, run)

    def finish(self) -> str:
        """Resume to the end and remove the folder. Empty if the run equals the other one, else what is wrong."""
        code, said = self.start().end()
        try:
            assert code == 0, said
            assert_same_run(self.out, self.whole)
            assert not list(self.out.glob("*.tmp")), "a half-written file is left"
        except (AssertionError, ValueError, OSError) as error:
            return str(error).strip() or "differs"
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
        return ""


# --- kills and errors


def kills_at_random(chunk: int, count: int) -> Found:
    kind = list(KINDS)[chunk % len(KINDS)]
    draw, kills, runs, wrong = random.Random(chunk), 0, 0, []
    with scratch() as folder:
        small = SmallRun(folder, kind)
        while kills < count:
            for _ in range(draw.randint(1, 4)):
                process = small.start()
                process.process.join(draw.uniform(0, small.seconds))
                process.send(signal.SIGKILL)
                kills += process.end(600)[0] == -signal.SIGKILL  # else it had ended before
            runs += 1
            if said := small.finish():
                wrong.append(said)
    return {"what": kind, "trials": kills, "runs": runs, "wrong": wrong}


EACH_CALL = [(what, kind) for kind in KINDS for what in ("killed", *ERRORS)]


def at_each_call(chunk: int, count: int) -> Found:
    """At most ``count`` calls, spread evenly over the run."""
    what, kind = EACH_CALL[chunk % len(EACH_CALL)]
    wrong, survived, numbers, calls = [], 0, Counter[str](), []
    with scratch() as folder:
        small = SmallRun(folder, kind)
        for line in under_strace(small)[2]:
            name = line[: line.index("(")]
            numbers[name] += 1  # strace counts each name by itself
            if str(small.out) in line:
                calls.append((name, numbers[name]))
        shutil.rmtree(small.out)
        calls = calls[:: -(-len(calls) // count)]
        for name, number in calls:
            fault = "signal=KILL" if what == "killed" else f"error={what}"
            code, said, _ = under_strace(small, f"inject={name}:{fault}:when={number}")
            right = code == -signal.SIGKILL if what == "killed" else code == 0 or (code == 1 and said.count("\n") == 1)
            survived += code == 0  # for example, a temporary file could not be removed
            if not right:
                wrong.append(f"{name} {number}: exit code {code}: {said[-300:]}")
            if said := small.finish():
                wrong.append(f"{name} {number}: {said}")
    names = dict(Counter(name for name, _ in calls))
    return {"what": f"{what}, {kind}", "trials": len(calls), "calls": names, "survived": survived, "wrong": wrong}


def under_strace(small: SmallRun, *options: str) -> tuple[int, str, list[str]]:
    """The run's exit code, what it printed, and its calls on files, a line each. ``options`` of ``strace -e``."""
    log = small.out.with_name("calls")
    process = small.start(paused)
    pid = str(process.process.pid)
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.001)
    command = ["strace", "-y", "-p", pid, "-o", str(log)]
    for option in (f"trace={CALLS}", *options):
        command += ["-e", option]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        strace.stderr.readline()  # type: ignore[union-attr]  # it is attached
        process.send(signal.SIGCONT)
        code, said = process.end(600)
    return code, said, [line for line in log.read_text(errors="replace").splitlines() if re.match(r"\w+\(", line)]


# --- power cuts


@dataclass
class Moment:
    """The run folder just before a call: contents by file, files by name, and what the call syncs."""

    contents: dict[int, bytes]
    names: dict[str, int]
    synced: int | None = None  # a file, or FOLDER


FOLDER = -1


def watch(folder: Path) -> list[Moment]:
    """Note a moment before each open, rename, removal and fsync in ``folder``, for the rest of this process."""
    moments, numbers, fsync = [], {}, os.fsync  # files are numbered, because inodes are used again

    def note(synced: int | None = None) -> None:
        inodes = {path.name: path.stat().st_ino for path in folder.glob("[!.]*")}  # not the lock, which reading ends
        for gone in numbers.keys() - set(inodes.values()):
            del numbers[gone]
        for inode in inodes.values():
            numbers.setdefault(inode, len(moments) * 100 + len(numbers))
        names = {name: numbers[inode] for name, inode in inodes.items()}
        contents = {file: (folder / name).read_bytes() for name, file in names.items()}
        moments.append(Moment(contents, names, numbers.get(synced, FOLDER) if synced is not None else None))

    busy = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or event not in ("open", "os.rename", "os.remove") or not str(args[0]).startswith(str(folder)):
            return
        busy = True
        note()
        busy = False

    def noted_fsync(descriptor: int) -> None:
        nonlocal busy
        busy = True
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(str(folder)):
            note(os.fstat(descriptor).st_ino)
        busy = False
        fsync(descriptor)

    os.fsync = noted_fsync
    sys.addaudithook(hook)
    return moments


def after_cut(draw: random.Random, moments: Sequence[Moment]) -> tuple[dict[str, int], dict[int, bytes]]:
    """A state after a power cut at the last of ``moments``: files by name, and their contents."""
    before = moments[:-1]  # their calls were done
    folder_synced = max((i for i, moment in enumerate(before) if moment.synced == FOLDER), default=0)
    names = moments[draw.randint(folder_synced, len(before))].names
    contents = {}
    for file in names.values():
        versions = [moment.contents[file] for moment in moments if file in moment.contents]
        synced = [moment.contents[file] for moment in before if moment.synced == file]
        old, new = synced[-1] if synced else b"", versions[-1]
        torn = old + new[len(old) : draw.randint(0, len(new))]
        contents[file] = draw.choice((old, new, torn, torn.ljust(len(new), b"\0"))) if new != old else new
    return names, contents


def power_cuts(chunk: int, count: int) -> Found:
    kind = list(KINDS)[chunk % len(KINDS)]
    draw, wrong, seen = random.Random(chunk), [], set()
    with scratch() as folder:
        small = SmallRun(folder, kind)
        code, said = small.start(traced).end()
        assert code == 0, said
        moments: list[Moment] = pickle.loads((folder / "trace").read_bytes())
        shutil.rmtree(small.out)
        saves = list(dict.fromkeys(moment.names[LAST] for moment in moments if LAST in moment.names))
        for _ in range(count):
            at = draw.randint(1, len(moments))
            names, contents = after_cut(draw, moments[:at])
            begun = {moment.names[f"{LAST}.tmp"] for moment in moments[:at] if f"{LAST}.tmp" in moment.names}
            if len(begun) > 1 and names.get(LAST) not in saves[len(begun) - 2 :]:
                wrong.append(f"at {at} of {len(moments)}: save {len(begun) - 1} is lost")
            key = hashlib.sha256(repr([(name, contents[file]) for name, file in sorted(names.items())]).encode())
            if key.digest() in seen:
                continue
            seen.add(key.digest())
            small.out.mkdir()
            for name, file in names.items():
                (small.out / name).write_bytes(contents[file])
            if said := small.finish():
                wrong.append(f"at {at} of {len(moments)}: {said}")
    return {"what": kind, "trials": count, "states": len(seen), "wrong": wrong}


# --- damaged checkpoints


def cut_checkpoints(chunk: int, count: int) -> Found:
    return damaged(lambda data, i: data[: len(data) * i // count], count)


def flipped_bits(chunk: int, count: int) -> Found:
    draw = random.Random(chunk)

    def flip(data: bytes, _: int) -> bytes:
        place = draw.randrange(8 * len(data))
        return data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]

    return damaged(flip, count)


def damaged(change: Callable[[bytes, int], bytes], count: int) -> Found:
    answers = Counter[str]()
    with scratch() as folder:
        good, path = SmallRun(folder, list(KINDS)[-1]).whole / LAST, folder / "damaged.ckpt"
        data, expected = good.read_bytes(), written(load_checkpoint(good))
        for i in range(count):
            path.write_bytes(change(data, i))
            try:
                answers["harmless" if written(load_checkpoint(path)) == expected else "read as something else"] += 1
            except ValueError as error:
                answers["refused" if "\n" not in str(error) else f"several lines: {error}"] += 1
            except Exception as error:
                answers[f"{type(error).__name__}: {error}"] += 1
    harmless, refused = answers.pop("harmless", 0), answers.pop("refused", 0)
    return {"trials": count, "refused": refused, "harmless": harmless, "wrong": list(answers.elements())}


def written(state: Any) -> bytes:
    """The bytes of a checkpoint's content."""
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


# --- bad inputs

SECONDS, MEGABYTES = 10, 2000  # allowed for an answer, and for the process
IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# kind: the file to mutate in a copy of a good folder, BAD, and the command that reads it
CASES = {
    **{kind: (f"image.{kind}", f"predict RUN BAD/image.{kind}") for kind in IMAGES},
    "Parquet": ("test-00000-of-00001.parquet", "evaluate RUN --data BAD --split test"),
    "caffemodel": ("caffe/weights.caffemodel", "convert BAD/caffe/weights.caffemodel OUT.safetensors"),
    "binaryproto": ("caffe/mean.binaryproto", "convert BAD/caffe/weights.caffemodel OUT.safetensors"),
    "pth": ("weights.pth", "convert BAD/weights.pth OUT.safetensors"),
    "safetensors": ("run/best.safetensors", "predict BAD/run/best.safetensors IMAGE"),
    "checkpoint": ("run/last.ckpt", "predict BAD/run/last.ckpt IMAGE"),
    "config.json": ("run/config.json", "train --resume --out BAD/run --quiet"),
    "metrics.jsonl": ("run/metrics.jsonl", "report BAD/run --out OUT.html"),
}
LINES = (
    "predict RUN IMAGE --top-k 2",
    "evaluate RUN --tta center",
    "evaluate RUN --split test --json",
    "report RUN --out OUT.html",
    "export RUN --format safetensors --out OUT.safetensors",
    "summary --variant paper --num-classes 10",
    "variants",
    "convert IMAGE OUT.safetensors --variant paper",
    "train quickstart --max-steps 1 --batch-size 8 --lr 0.01 --seed 3 --width-mult 0.0625 --val-every 2 --out OUT",
    "reproduce figure-1 --seeds 2 --out OUT",
    "doctor --recipe quickstart --init he --input-scale raw",
)
JUNK = ("", "-1", "0", "nan", "inf", "1e999", "x" * 300, "💥", "../..", "--", "-", "none", "yes", "/dev/null", "%s")


class Hang(BaseException):
    """An answer took too long. Nothing catches it."""


def make_good(folder: Path) -> SmallRun:
    """A folder ``good`` with a good file of each kind, and a run."""
    from alexnet.model import AlexNet_2012
    from caffe_files import blob, caffe_layers, caffemodel
    from pictures import parquet_folder

    small, good = SmallRun(folder, list(KINDS)[-1]), folder / "good"
    (good / "caffe").mkdir(parents=True)
    shutil.copytree(small.whole, good / "run")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    for kind in IMAGES:
        picture.save(good / f"image.{kind}", kind)
    files = sorted(small.images.glob("val/*/*.png"))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    labels = [int(path.parent.name == "light") for path in files]
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dark", "light"]}}
    parquet_folder(good, labels, labels, features, rows=rows)
    torch.manual_seed(0)
    torch.save(AlexNet_2012(5, width_mult=1 / 16).state_dict(), good / "weights.pth")
    layers = caffe_layers(AlexNet_2012(5, "caffe", width_mult=1 / 16).requires_grad_(False))
    (good / "caffe/weights.caffemodel").write_bytes(caffemodel(layers))
    (good / "caffe/mean.binaryproto").write_bytes(blob(np.full((3, 256, 256), 110), "sides"))
    return small


def mutated(draw: random.Random, data: bytes) -> bytes:
    """One to four changes: bits, bytes, pieces removed, inserted, repeated or cut off."""
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at, size = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 64, 1000))
        before, piece, after = data[:at], data[at : at + size], data[at + size :]
        data = draw.choice(
            (
                before + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
                before + draw.choice((b"\0", b"\xff", b"\x7f\xff", b"\x80")) * size + after,
                before + draw.randbytes(size) + after,
                before + after,
                before + draw.randbytes(size) + piece + after,
                before + piece * draw.choice((2, 100)) + after,
                before,
            )
        )
    return data


def bad_line(draw: random.Random) -> str:
    """One of ``LINES`` with words missing, repeated, misspelt, or junk in their place; words are NUL-separated."""
    words = draw.choice(LINES).split()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(words))
        letter = draw.randrange(len(words[at]) + 1)
        change = draw.choice(("replace", "remove", "repeat", "misspell", "insert"))
        if change == "replace":
            words[at] = draw.choice(JUNK)
        elif change == "remove" and len(words) > 1:
            del words[at]
        elif change == "repeat":
            words.insert(at, draw.choice(words))
        elif change == "misspell":
            words[at] = words[at][:letter] + draw.choice("-=aZ0é ") + words[at][letter + 1 :]
        else:
            words.insert(at + 1, draw.choice(JUNK))
    if words[0] in ("train", "doctor"):  # what still works trains little
        words += ["--data", "IMAGES", "--width-mult", "0.0625"]
        words += ["--tracker", "none", "--max-steps", "1"] if words[0] == "train" else []
    return "\0".join([*words, *(["--help"] if words[0] == "reproduce" else [])])


def answer(words: Sequence[str]) -> tuple[int | None, str]:
    """The exit code of a command, and what is wrong with its answer; empty if nothing is."""

    def late(*_: object) -> None:
        raise Hang

    said, code = io.StringIO(), None
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = alexnet(words)
    except Hang:
        return None, f"no answer within {SECONDS} s"
    except BaseException as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    text = said.getvalue()
    lines = [line for line in text.splitlines() if line.startswith("alexnet: ")]
    one_line = len(lines) == 1 or (lines and words[0] == "predict")  # predict has one for each image it cannot read
    if code not in (0, 1, 2) or (code and not one_line) or "Traceback" in text or "Warning: " in text:
        return code, f"exit code {code}: {text[-300:]}"
    return code, ""


def answers(chunk: int, count: int, folder: Path, result: Path) -> None:
    """Answer ``count`` bad inputs, of each kind in turn, and write what came of it."""
    draw, small, bad = random.Random(chunk), make_good(folder), folder / "bad"
    places = {
        "RUN": small.whole, "IMAGES": small.images, "IMAGE": next(small.images.glob("val/*/*.png")),
        "OUT": folder / "out", "BAD": bad,
    }  # fmt: skip

    def command(kind: str, change: Callable[[bytes], bytes]) -> list[str]:
        file, line = CASES.get(kind, ("", ""))
        line = line.replace(" ", "\0") or bad_line(draw)
        if file:
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(folder / "good", bad)
            (bad / file).write_bytes(change((bad / file).read_bytes()))
        for name, path in places.items():
            line = line.replace(name, str(path))
        return line.split("\0")

    for kind in CASES:
        assert (found := answer(command(kind, bytes))) == (0, ""), f"a good {kind}: {found}"
    kinds = [*CASES, "command line"]
    codes, wrong = {kind: Counter[str]() for kind in kinds}, []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        words = command(kind, lambda data: mutated(draw, data))
        (folder / "now").write_text(json.dumps(words))
        code, said = answer(words)
        codes[kind][f"exit code {code}"] += 1
        if said:
            wrong.append(f"{kind}: {' '.join(words)}: {said}")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if megabytes > MEGABYTES:
        wrong.append(f"{megabytes} MB of memory")
    result.write_text(json.dumps({"trials": count, "answers": codes, "megabytes": megabytes, "wrong": wrong}))


def bad_inputs(chunk: int, count: int) -> Found:
    """In a process of its own, so that a crash of it is seen."""
    with scratch() as folder:
        result, now = folder / "result.json", folder / "now"
        process = SERVER.Process(target=answers, args=(chunk, count, folder, result))
        process.start()
        process.join()
        if not result.exists():
            at = now.read_text() if now.exists() else "the start"
            return {"trials": 0, "wrong": [f"the process ended with {process.exitcode} at {at}"]}
        return json.loads(result.read_text())  # type: ignore[no-any-return]


# part: what does a chunk of trials, how many a chunk has, and how many there are in all
PARTS: dict[str, tuple[Callable[[int, int], Found], int, int]] = {
    "kills at random": (kills_at_random, 50, 1000),
    "at each call": (at_each_call, 40, 40 * len(EACH_CALL)),
    "power cuts": (power_cuts, 100, 1000),
    "cut checkpoints": (cut_checkpoints, 1000, 1000),
    "flipped bits": (flipped_bits, 1000, 10_000),
    "bad inputs": (bad_inputs, 400, 10_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {'; '.join(PARTS)}; by default all")
    parser.add_argument("--trials", type=int, help="trials of each part, in place of its own number")
    parser.add_argument("--json", type=Path, help="the record, which grows")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"PART must be one of {'; '.join(PARTS)}, got {', '.join(unknown)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # before the server that forks the runs starts
    (first := SERVER.Process(target=int)).start()  # the server imports everything before it answers
    first.join()
    record = GrowingRecord(args.json, {"kind": "faults", "command": "python benchmarks/faults.py"}, ("part", "chunk"))
    for part in args.parts or PARTS:
        work, size, total = PARTS[part]
        total = args.trials or total
        for chunk in range(-(-total // size)):
            if record.find(part=part, chunk=chunk):
                continue
            began = time.monotonic()
            found = work(chunk, min(size, total - chunk * size))
            found = {"part": part, "chunk": chunk, **found, "seconds": round(time.monotonic() - began)}
            print(*(f"{name} {value}" for name, value in found.items() if name != "wrong"), sep="  ", flush=True)
            for each in found["wrong"]:
                print(f"  wrong: {each}", flush=True)
            record.add(found | origin())
    return int(any(run["wrong"] for run in record.runs))


if __name__ == "__main__":
    sys.exit(main())
