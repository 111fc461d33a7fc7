"""The ``alexnet`` command.

``--help`` has to answer at once, so torch and everything that needs it are imported inside ``alexnet.commands``.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 and 143 stopped by SIGINT or SIGTERM. A failure and a wrong usage are
one line on standard error. Any other exception is a bug in this package and keeps its trace.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from alexnet.commands import looking, training, using
from alexnet.commands.answer import Answer, FailedError
from alexnet.files import finite
from alexnet.flags import UsageError, parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``--help`` and ``--version`` raise SystemExit, as argparse does."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start, or pythonw: nobody listens
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata; what cannot be read is told in one line
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except UsageError as error:
        return _complain(error, 2)
    except FailedError as error:
        return _complain(error, 1)
    except KeyboardInterrupt as error:  # ``processes.signals`` says by which
        return _complain("interrupted", 143 if error.args == (signal.SIGTERM,) else 130)
    except BrokenPipeError:  # whoever read the output has gone, such as `head`
        with contextlib.suppress(OSError, ValueError):  # Python would flush once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as if SIGPIPE had ended us
    except OSError as error:
        return _complain(_system_reason(error), 1)
    except ValueError as error:
        # Every message about a flag begins with it; the others are about files and data.
        return _complain(error, 2 if str(error).startswith("--") else 1)


def _command(name: str) -> Callable[[argparse.Namespace], Answer]:
    """The function of a command, from ``alexnet.commands``."""
    room = next(room for room in (training, using, looking) if name in room.__all__)
    return getattr(room, name)  # type: ignore[no-any-return]


def _complain(error: Exception | str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"alexnet: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _system_reason(error: OSError) -> str:
    if error.strerror is None or error.errno is None:
        return str(error)
    full = "; the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename}: {error.strerror}{full}" if error.filename else f"{error.strerror}{full}"


def _run(argv: list[str]) -> int:
    try:
        args = parse(argv)
    except SystemExit:  # --help: a reader who has gone shall be noticed here, not at Python's end
        sys.stdout.flush()
        raise
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext(), _memory(args.command):
        answer = _command(args.command)(args)
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one speaks
        return answer.code
    if args.json:
        print(json.dumps(finite(answer.document), indent=2), file=out)
    elif answer.text:
        print(answer.text, file=out)
    out.flush()
    if answer.aside:
        print(answer.aside, file=sys.stderr)
    if answer.then:
        answer.then()
    return answer.code


@contextlib.contextmanager
def _memory(command: str) -> Iterator[None]:
    """Say in one line that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from alexnet.hardware import out_of_memory

        if not out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0]
        remedy = "; a smaller --batch-size needs less" if command == "train" else ""
        raise FailedError(f"out of memory ({reason}){remedy}") from error
