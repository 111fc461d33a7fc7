"""SIGKILL at random moments and at every call that changes a file; every such call failing, as a full disk's does."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from typing import Any

from breaking.runs import KINDS, WHOLE, Trial, scratch

CHUNK, WHOLE_CHUNK = 50, 10
ERRORS = ("ENOSPC", "EIO", "EROFS")


def at_random(chunk: int) -> dict[str, Any]:
    """``CHUNK`` kills of runs that are killed one to four times each and then end."""
    kind = list(KINDS)[chunk % len(KINDS)]
    return {"what": kind} | _at_random(chunk, kind, CHUNK)


def of_the_whole_network(chunk: int) -> dict[str, Any]:
    """The same with every map of the network, so with checkpoints of 460 MB."""
    return _at_random(chunk, WHOLE, WHOLE_CHUNK)


def _at_random(chunk: int, kind: str, count: int) -> dict[str, Any]:
    draw, kills, runs, wrong = random.Random(chunk), 0, 0, []
    with scratch() as folder:
        trial = Trial(folder, kind)
        began = time.monotonic()
        trial.start().end()
        seconds = time.monotonic() - began
        shutil.rmtree(trial.out)
        while kills < count:
            for _ in range(draw.randint(1, 4)):
                process = trial.start()
                time.sleep(draw.uniform(0, seconds))
                process.send(signal.SIGKILL)
                code, _ = process.end()
                kills += code == -signal.SIGKILL  # else it had ended already
            runs += 1
            if said := trial.finish():
                wrong.append(said)
    return {"trials": kills, "runs": runs, "wrong": wrong}


def killed_at_each_call(kind: str) -> dict[str, Any]:
    """A run for each call on its files, killed at that call; resumed."""
    with scratch() as folder:
        trial = Trial(folder, kind)
        calls, wrong = trial.calls_on_files(), []
        for name, number, file in calls:
            code, said, _ = trial.traced(f"{name}:signal=KILL:when={number}")
            if code != -signal.SIGKILL:
                wrong.append(f"{name} {number} of {file}: not killed ({code}) {said[-200:]}")
            if said := trial.finish():
                wrong.append(f"{name} {number} of {file}: {said}")
    return {
        "what": f"killed, {kind}",
        "trials": len(calls),
        "calls": dict(Counter(name for name, _, _ in calls)),
        "wrong": wrong,
    }


def failed_at_each_call(kind: str, error: str) -> dict[str, Any]:
    """A run for each call on its files, which fails: one line, exit code 1, and resumed as if nothing had been."""
    with scratch() as folder:
        trial = Trial(folder, kind)
        calls, wrong, outlived = trial.calls_on_files(), [], 0
        for name, number, file in calls:
            code, said, _ = trial.traced(f"{name}:error={error}:when={number}")
            outlived += code == 0  # a temporary file that could not be taken away, say
            if code not in (0, 1) or (code == 1 and (said.count("\n") != 1 or "Traceback" in said)):
                wrong.append(f"{name} {number} of {file}: exit code {code}: {said[-300:]}")
            if said := trial.finish():
                wrong.append(f"{name} {number} of {file}: {said}")
    return {"what": f"{error}, {kind}", "trials": len(calls), "outlived": outlived, "wrong": wrong}
