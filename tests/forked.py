"""The command with the small network in processes of their own, forked from one that has imported everything.

They are there in a tenth of a second; Python with torch takes five. Exit handlers do not run in them: what is about the
end of a process needs a real one, as what is about its command line does.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

import tiny

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["alexnet.train", "torch._dynamo", "torch.distributed", "matplotlib.backends.backend_agg", "matplotlib.figure"]
)


def _command(arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    with output.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(tiny.command(arguments))


class Command:
    """``alexnet ARGUMENTS``, started; what it prints goes to the file ``output``."""

    def __init__(self, arguments: Sequence[str], output: Path, **environment: str) -> None:
        self.output = output
        output.touch()
        self.process = SERVER.Process(target=_command, args=(list(arguments), output, environment))
        self.process.start()

    def send(self, signal: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process.pid, signal)  # type: ignore[arg-type]

    def send_to_others(self, signal: int) -> None:
        """To the processes that it started: its data workers, and the server that forks them."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.send_signal(signal)

    def wait_for(self, path: Path, timeout: float = 60) -> None:
        """Until that file is there, or the process has ended."""
        until = time.monotonic() + timeout
        while not path.exists() and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.005)

    def end(self, timeout: float = 100) -> tuple[int, str]:
        """Its exit code, negative for a signal, and what it printed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{self.output.read_text()[-2000:]}")
        return self.process.exitcode, self.output.read_text()


def several(processes: int, arguments: Sequence[str], output: Path, **environment: str) -> list[Command]:
    """The command as torchrun starts it, in processes that know of each other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)} | environment
    return [
        Command(arguments, output.with_suffix(f".{rank}"), RANK=str(rank), LOCAL_RANK=str(rank), **meet)
        for rank in range(processes)
    ]
