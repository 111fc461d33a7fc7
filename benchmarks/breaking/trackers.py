"""A run whose tracker's server refuses, hangs, answers 500 or dies on the way: the same rows, and about the same time.

The server stands in for wandb's: it says yes to a login, a run and its rows, as long as it is well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from alexnet.run import tracking
from breaking.runs import SMALL, scratch
from small_run import make_images, rows_without_times
from tiny import command

STATES = ("well", "refuses", "hangs", "answers 500", "dies on the way")


class Server(ThreadingHTTPServer):
    """``asked`` counts requests; ``dead`` makes it hang from then on."""

    daemon_threads = True

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.state, self.rows, self.asked = state, 0, 0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if b'"content"' in body:
            self.server.rows += 1
        if self.server.state == "hangs" or (self.server.state == "dies on the way" and self.server.rows > 1):
            time.sleep(3600)
        answer = json.dumps(answered()).encode()
        self.send_response(500 if self.server.state == "answers 500" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def answered() -> dict[str, Any]:
    """What wandb's client has to hear to go on, whatever it asked."""
    project = {"name": "alexnet-2012", "entity": {"name": "me"}}
    return {
        "data": {
            "viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "model": None,
            "entity": None,
            "serverInfo": {"cliVersionInfo": {}, "features": []},
            "upsertBucket": {
                "bucket": {"id": "r", "name": "r", "displayName": "r", "historyLineCount": 0, "project": project},
                "inserted": True,
            },
            "createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []},
        }
    }


def train(out: Path, images: Path, result: Path) -> None:
    """A run that notes how long its tracker took: to start, for all rows together, to finish."""
    seconds = {"start": 0.0, "rows": 0.0, "finish": 0.0}

    def timed(name: str, work: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            began = time.monotonic()
            try:
                return work(*args, **options)
            finally:
                seconds[name] += time.monotonic() - began

        return call

    tracking.start = timed("start", tracking.start)
    for name, method in (("rows", "log"), ("finish", "finish")):
        setattr(tracking.Tracking, method, timed(name, getattr(tracking.Tracking, method)))
    flags = [*SMALL, "--max-steps", "60", "--epochs", "30", "--val-every", "3", "--save-every", "10"]
    code = command([*flags, "--data", str(images), "--out", str(out), "--tracker", "wandb"])
    result.write_text(json.dumps(seconds))
    sys.exit(code)


def tracked(chunk: int) -> dict[str, Any]:
    """A run with a server in one of ``STATES``, and the same one recorded offline."""
    state, wrong = STATES[chunk], []
    server = Server(state)
    if state == "refuses":
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with scratch() as folder:
        make_images(folder / "images")
        there = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "a" * 40}
        for name, where in (("offline", {"WANDB_MODE": "offline"}), ("run", there)):
            paths = [str(folder / each) for each in (name, "images", "seconds")]
            code = f"from breaking.trackers import *; train(*map(Path, {paths}))"
            environment = os.environ | where | {"PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
            if done.returncode or "Traceback" in done.stderr:
                wrong.append(f"{name}: exit code {done.returncode}: {done.stderr[-500:]}")
        seconds = {name: round(value, 3) for name, value in json.loads((folder / "seconds").read_text()).items()}
        rows = rows_without_times(folder / "run")
        if rows != rows_without_times(folder / "offline"):
            wrong.append("other rows")
        if not list((folder / "run" / "wandb").rglob("*.wandb")):
            wrong.append("nothing was kept to send later")
        said = [line.replace(str(folder), "FOLDER") for line in done.stderr.splitlines() if "wandb" in line]
    found = {"seconds_to_start": seconds["start"], "seconds_to_finish": seconds["finish"]}
    row = round(1000 * seconds["rows"] / len(rows), 1)
    return {"what": state, "trials": 1, **found, "milliseconds_a_row": row, "said": said, "wrong": wrong}
