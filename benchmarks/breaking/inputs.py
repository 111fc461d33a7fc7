"""What people give to the commands, mutated: files of every kind, and command lines. Each is answered in one line."""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet.cli import main
from alexnet.model import VARIANTS, AlexNet_2012
from breaking.runs import SERVER, Trial, scratch
from caffe_files import blob, caffe_layers, caffemodel
from tiny import tiny_variants

CHUNK, SECONDS, MEGABYTES = 340, 10, 2000


class Hang(BaseException):
    """Nothing catches it."""


class Inputs:
    """Good files of each kind in a folder, and the command that is given a bad one of the kind."""

    def __init__(self, folder: Path) -> None:
        trial = Trial(folder, "every part of a recipe")
        self.folder, self.run, self.images = folder, trial.whole, trial.images
        self.image = next(self.images.glob("val/*/*.png"))
        self.good: dict[str, list[bytes]] = {}
        self.commands: dict[str, Callable[[bytes], list[str]]] = {}
        self._images()
        self._tables()
        self._weights()
        for name in ("config.json", "metrics.jsonl"):
            self.good[name] = [(self.run / name).read_bytes()]
            self.commands[name] = lambda data, name=name: self._in_a_run(name, data)  # type: ignore[misc]

    def bad(self, draw: random.Random, kind: str) -> list[str]:
        """A command line about a mutated file of the kind."""
        return self.commands[kind](mutated(draw, draw.choice(self.good[kind])))

    def _put(self, name: str, data: bytes) -> str:
        path = self.folder / "bad" / name
        shutil.rmtree(self.folder / "bad", ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        return str(path)

    def _images(self) -> None:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
            self.good[kind] = []
            for options in ({}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}):
                with contextlib.suppress(TypeError, OSError):
                    picture.save(file := io.BytesIO(), kind, **options)
                    self.good[kind].append(file.getvalue())
            self.commands[kind] = lambda data: ["predict", str(self.run), self._put("image", data)]

    def _tables(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            {"img": {"bytes": path.read_bytes(), "path": path.name}, "label": int(path.parent.name == "light")}
            for path in sorted(self.images.glob("val/*/*.png"))
        ]
        features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dark", "light"]}}
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(told), file := io.BytesIO())
        self.good["Parquet"] = [file.getvalue()]

        def command(data: bytes) -> list[str]:
            folder = Path(self._put("test-00000-of-00001.parquet", data)).parent
            (folder / "train-00000-of-00001.parquet").write_bytes(self.good["Parquet"][0])
            return ["evaluate", str(self.run), "--data", str(folder), "--split", "test"]

        self.commands["Parquet"] = command

    def _weights(self) -> None:
        torch.manual_seed(0)
        net = AlexNet_2012(5, "caffe").requires_grad_(False)
        torch.save(AlexNet_2012(5).state_dict(), plain := io.BytesIO())
        out = str(self.folder / "converted.safetensors")

        def convert(name: str) -> Callable[[bytes], list[str]]:
            return lambda data: ["convert", self._put(name, data), out]

        self.good["caffemodel"] = [caffemodel(caffe_layers(net))]
        self.good["pth"] = [plain.getvalue()]
        for kind in ("caffemodel", "pth"):
            self.commands[kind] = convert(f"weights.{kind}")

        def with_mean(data: bytes) -> list[str]:
            mean = Path(self._put("mean.binaryproto", data))
            (mean.parent / "x.caffemodel").write_bytes(self.good["caffemodel"][0])
            return ["convert", str(mean.parent / "x.caffemodel"), out]

        self.good["binaryproto"], self.commands["binaryproto"] = [blob(np.full((3, 256, 256), 110), "sides")], with_mean
        self.good["safetensors"] = [(self.run / "best.safetensors").read_bytes()]
        self.good["checkpoint"] = [(self.run / "last.ckpt").read_bytes()]
        for kind, name in (("safetensors", "x.safetensors"), ("checkpoint", "x.ckpt")):
            self.commands[kind] = lambda data, name=name: ["predict", self._put(name, data), str(self.image)]  # type: ignore[misc]

    def _in_a_run(self, name: str, data: bytes) -> list[str]:
        folder = Path(self._put(name, data)).parent
        for file in self.run.iterdir():
            if file.name != name:
                shutil.copy(file, folder)
        if name == "metrics.jsonl":
            return ["report", str(folder), "--out", str(self.folder / "report.html")]
        return ["train", "--resume", "--out", str(folder), "--quiet"]


def mutated(draw: random.Random, data: bytes) -> bytes:
    """One to four changes: bits, bytes, pieces taken out, put in, doubled or cut off."""
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at, size = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 64, 1000))
        piece = data[at : at + size]
        data = draw.choice(
            (
                data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
                data[:at] + draw.choice((b"\0", b"\xff", b"\x7f\xff", b"\x80")) * size + data[at + size :],
                data[:at] + draw.randbytes(size) + data[at + size :],
                data[:at] + data[at + size :],
                data[:at] + draw.randbytes(size) + data[at:],
                data[:at] + piece * draw.choice((2, 100)) + data[at + size :],
                data[:at],
            )
        )
    return data


LINES = (
    "predict RUN IMAGE --top-k 2",
    "evaluate RUN --views center",
    "evaluate RUN --split test --json",
    "report RUN --out OUT.html",
    "export RUN --format safetensors --out OUT.safetensors",
    "summary --variant paper --num-classes 10",
    "variants",
    "convert RUN/best.safetensors OUT.safetensors",
    "train quickstart --max-steps 1 --batch-size 8 --lr 0.01 --seed 3 --schedule cosine --val-every 2 --out OUT",
    "reproduce figure-1 --seeds 2 --out OUT",
    "doctor --recipe quickstart --init he --input-scale raw",
)
JUNK = (
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "x" * 300,
    "💥",
    "../..",
    "--",
    "-",
    "none",
    "1e-400",
    "yes",
    "/dev/null",
    "%s",
)


def bad_line(draw: random.Random, inputs: Inputs) -> list[str]:
    """One of ``LINES`` with words missing, doubled, misspelt, or junk in their place."""
    words = draw.choice(LINES).split()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(words))
        change = draw.randrange(5)
        if change == 0:
            words[at] = draw.choice(JUNK)
        elif change == 1 and len(words) > 1:
            del words[at]
        elif change == 2:
            words.insert(at, words[draw.randrange(len(words))])
        elif change == 3:
            letter = draw.randrange(len(words[at]) + 1)
            words[at] = words[at][:letter] + draw.choice("-=aZ0é ") + words[at][letter + 1 :]
        else:
            words.insert(at + 1, draw.choice(JUNK))
    places = {"RUN": inputs.run, "IMAGE": inputs.image, "OUT": inputs.folder / "out"}
    words = [_placed(word, places) for word in words]
    if "train" in words[:1] or "doctor" in words[:1] or "reproduce" in words[:1]:  # what is left over trains: a little
        words += ["--data", str(inputs.images)]
        words += ["--tracker", "none", "--max-steps", "1"] if words[0] == "train" else []
        words += ["--help"] if words[0] == "reproduce" else []
    return words


def _placed(word: str, places: dict[str, Path]) -> str:
    for name, path in places.items():
        word = word.replace(name, str(path))
    return word


def answered(argv: list[str]) -> tuple[int | None, str]:
    """The exit code of a command, and what was wrong with its answer: nothing, or a reason."""

    def late(*_: object) -> None:
        raise Hang

    said, code = io.StringIO(), None
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(argv)
    except Hang:
        return None, f"no answer within {SECONDS} s"
    except SystemExit as end:  # --help, --version
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("alexnet: ")]
    wanted = len(lines) == 1 or (lines and argv[0] == "predict")  # which tells of each image that it could not read
    if code in (1, 2) and (not wanted or "Traceback" in said.getvalue()):
        return code, f"exit code {code}: {said.getvalue()[-300:]}"
    if "Warning: " in said.getvalue():  # of a library, with a path and a line of code
        return code, said.getvalue()[-300:]
    return code, "" if code in (0, 1, 2) else f"exit code {code}"


def _chunk(chunk: int, count: int, folder: Path, result: Path) -> None:
    VARIANTS.update(tiny_variants())  # type: ignore[attr-defined]
    draw, inputs = random.Random(chunk), Inputs(folder)
    for kind, command in inputs.commands.items():
        for good in inputs.good[kind]:
            assert (found := answered(command(good))) == (0, ""), f"a good {kind}: {found}"
    kinds = [*inputs.commands, "command line"]
    answers, wrong = {kind: Counter[str]() for kind in kinds}, []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        argv = bad_line(draw, inputs) if kind == "command line" else inputs.bad(draw, kind)
        (folder / "now").write_text(json.dumps(argv))
        code, said = answered(argv)
        answers[kind][f"exit code {code}"] += 1
        if said:
            wrong.append(f"{kind}: {' '.join(argv) if kind == 'command line' else argv[0]}: {said}")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if megabytes > MEGABYTES:
        wrong.append(f"{megabytes} MB of memory")
    found = {"trials": count, "answers": answers, "megabytes": megabytes, "wrong": wrong}
    result.write_text(json.dumps(found))


def bad_inputs(chunk: int, count: int = CHUNK) -> dict[str, Any]:
    """Mutated files of every kind and command lines, given to the commands in one process."""
    with scratch() as folder:
        result = folder / "result.json"
        process = SERVER.Process(target=_chunk, args=(chunk, count, folder, result))
        process.start()
        process.join()
        if not result.exists():
            now = (folder / "now").read_text() if (folder / "now").exists() else ""
            return {"trials": 0, "wrong": [f"the process ended with {process.exitcode} at {now}"]}
        return json.loads(result.read_text())  # type: ignore[no-any-return]
