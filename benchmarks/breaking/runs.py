"""A small run to hurt: started, watched call by call, and compared with the one that nothing happened to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))  # the small run, and how it is started at once

from forked import SERVER, Command, _command
from small_run import COMMAND, MANY, assert_same_run, make_images

# Every call that changes a file, a folder or what a disk holds.
CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,ftruncate"
SMALL = [*COMMAND, "--max-steps", "6", "--save-every", "0", "--quiet"]


def flags(changes: dict[str, object]) -> list[str]:
    """Fields of a recipe as flags."""
    words = []
    for name, value in changes.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


KINDS = {"classic's parts": [], "every part of a recipe": flags(MANY)}
WHOLE = "the whole network"  # classic's parts again, and every map


class Trial:
    """One run of a kind, in a folder of its own, and the uninterrupted one beside it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.images, self.whole, self.out = folder / "images", folder / f"whole {kind}", folder / "run"
        self.flags = [*SMALL, *([] if kind == WHOLE else KINDS[kind]), "--data", str(self.images)]
        self.environment = {"WHOLE_NETWORK": "1"} if kind == WHOLE else {}
        if not self.images.exists():
            make_images(self.images)
        if not self.whole.exists():
            code, said = Command([*self.flags, "--out", str(self.whole)], folder / "output", **self.environment).end()
            assert code == 0, said

    def start(self) -> Command:
        """Begin, or go on where a run was begun: the same command with --resume."""
        return Command([*self.flags, "--resume", "--out", str(self.out)], self.output(), **self.environment)

    def output(self) -> Path:
        path = self.out.with_name("output")
        path.unlink(missing_ok=True)
        return path

    def finish(self) -> str:
        """Resume to the end. Empty where the run is the uninterrupted one's equal, else what is wrong."""
        code, said = self.start().end()
        try:
            assert code == 0, said
            assert_same_run(self.out, self.whole)
            assert not list(self.out.glob("*.tmp")), "a file half written is left"
        except (AssertionError, ValueError, OSError) as error:
            return str(error).strip() or "differs"
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
        return ""

    def traced(self, *inject: str) -> tuple[int, str, list[str]]:
        """The run under strace, with its flags of injection: exit code, what it said, and its calls in order."""
        output, log = self.output(), self.out.with_name("calls")
        process = SERVER.Process(target=_stopped_command, args=([*self.flags, "--out", str(self.out)], output))
        process.start()
        while _state(process.pid) != "T":
            time.sleep(0.001)
        command = ["strace", "-y", "-p", str(process.pid), "-e", f"trace={CALLS}", "-o", str(log)]
        for each in inject:
            command += ["-e", f"inject={each}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
            strace.stderr.readline()  # type: ignore[union-attr]  # which says that it watches
            os.kill(process.pid, signal.SIGCONT)  # type: ignore[arg-type]
            process.join(120)
        said = output.read_text() if output.exists() else ""
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(said)
        calls = [line for line in log.read_text(errors="replace").splitlines() if re.match(r"\w+\(", line)]
        return process.exitcode, said, calls

    def calls_on_files(self) -> list[tuple[str, int, str]]:
        """The calls of a whole run that change its folder: name, its how manieth of the run's of that name, and file.

        strace counts each name by itself.
        """
        _, _, calls = self.traced()
        shutil.rmtree(self.out)
        counts, found = Counter[str](), []
        for call in calls:
            name = call[: call.index("(")]
            counts[name] += 1
            if file := re.search(rf"{re.escape(str(self.out))}/?([\w.]*)", call):
                found.append((name, counts[name], file[1]))
        return found


def _stopped_command(arguments: Sequence[str], output: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    _command(arguments, output, {})


def _state(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Path(folder)
