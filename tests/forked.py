"""The command ``alexnet`` in processes of their own, forked from one that has imported everything.

They start in a tenth of a second, where Python with torch takes five. Exit handlers do not run in them.
``FILE_SIZE_LIMIT=N`` in the environment makes writes beyond N bytes fail, as on a full disk.
"""

import contextlib
import multiprocessing
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alexnet.cli import main

Run = Callable[[Sequence[str]], int]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["alexnet.train", "torch._dynamo", "torch.distributed", "matplotlib.backends.backend_agg", "matplotlib.figure"]
)


def _command(run: Run, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    with output.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if limit := int(environment.get("FILE_SIZE_LIMIT", 0)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(run(arguments))


class Command:
    """``alexnet ARGUMENTS``, started; what it prints goes to the file ``output``. ``run`` runs it in the process."""

    def __init__(self, arguments: Sequence[str], output: Path, run: Run = main, **environment: str) -> None:
        self.output = output
        output.touch()
        self.process = SERVER.Process(target=_command, args=(run, list(arguments), output, environment))
        self.process.start()

    def send(self, signal: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process.pid, signal)  # type: ignore[arg-type]

    def wait_for(self, path: Path, timeout: float = 60) -> None:
        """Wait until that file exists, or the process has ended."""
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


def several(processes: int, arguments: Sequence[str], output: Path, *, last: Sequence[str] = ()) -> list[Command]:
    """The command in several processes, as torchrun starts it. ``last``: arguments of the last process alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [
        Command(
            [*arguments, *(last if rank == processes - 1 else ())],
            output.with_suffix(f".{rank}"),
            **meeting,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(processes)
    ]
