"""The trackers behind a run's record: wandb, trackio, TensorBoard and nothing, each with the same two methods.

They may raise what they like; ``tracking.Tracking`` catches it. None prompts, and none prints to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "TRACKERS",
    "Nothing",
    "TensorBoard",
    "Tracker",
    "Trackio",
    "Wandb",
    "check_name",
    "start_wandb",
    "wandb_mode",
]

TRACKERS = ("wandb", "trackio", "tensorboard", "none")
PROJECT = "alexnet-2012"

# What `pip install` takes where a tracker's package is missing.
_INSTALL = {"wandb": "wandb", "trackio": "'alexnet-2012[trackio]'", "tensorboard": "'alexnet-2012[tensorboard]'"}

# Seconds. A machine that is logged in but has no network starts after the first, and ends after the second.
_WANDB_INIT_TIMEOUT = 20.0
_WANDB_FINISH_TIMEOUT = 30.0

Row = Mapping[str, float | int]
State = Literal["finished", "stopped", "failed"]
Say = Callable[[str], None]


class Tracker(Protocol):
    """The face that every tracker has."""

    def log(self, row: Row) -> None: ...

    def finish(self, summary: Mapping[str, float], state: State) -> None: ...


def check_name(name: str) -> None:
    """ValueError where ``name`` is no tracker, or one whose package, which is not imported here, is not installed."""
    if name not in TRACKERS:
        raise ValueError(f"--tracker {name}: allowed is one of {', '.join(TRACKERS)}")
    if name != "none" and find_spec(name) is None:
        raise ValueError(f"--tracker {name}: its package is not installed; pip install {_INSTALL[name]}")


def one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Nothing:
    """The tracker that does nothing."""

    def log(self, row: Row) -> None:
        pass

    def finish(self, summary: Mapping[str, float], state: State) -> None:
        pass


class Wandb:
    """A wandb run. ``step`` is the x axis; wandb's own counter, ``_step``, is the row's place in ``metrics.jsonl``.

    That counter has to grow by itself: it lets two rows share a step (validation and the end of an epoch), and it
    continues where a resumed run left off, so that the server knows rows that are sent twice.
    """

    def __init__(self, run: Any, first: int) -> None:
        self._run = run
        self._place = first
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def log(self, row: Row) -> None:
        place, self._place = self._place, self._place + 1
        self._run.log(dict(row), step=place, commit=True)

    def finish(self, summary: Mapping[str, float], state: State) -> None:
        try:
            self._run.summary.update({**summary, "state": state})
        finally:
            self._run.finish(exit_code={"finished": 0, "stopped": 130, "failed": 1}[state])


def wandb_mode() -> tuple[Literal["online", "shared", "offline", "disabled"], str]:
    """What a wandb run would be here, and why in a few words.

    Asks nobody: no prompt, no network. ``WANDB_MODE`` and wandb's settings files come first, then whether there are
    credentials (``WANDB_API_KEY``, an identity token, a settings file, a netrc file). wandb stays silent in this
    process from then on.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    # wandb reads its environment once; a caller may have changed the mode since.
    mode = os.environ.get("WANDB_MODE") or settings.mode
    if mode == "disabled":
        return "disabled", "wandb is set to disabled"
    if mode in ("offline", "dryrun"):
        return "offline", "wandb is set to offline"
    try:
        # wandb.login() gives no answer while another run is active in this process; but then that run knows.
        known = not wandb.run.offline if wandb.run else wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        return "offline", one_line(error).rstrip(".")
    if not known:
        return "offline", "not logged in"
    return "shared" if mode == "shared" else "online", "logged in"


def start_wandb(folder: Path, config: dict[str, Any], *, resume: bool, first: int, say: Say) -> Tracker:
    mode, why = wandb_mode()
    if mode == "disabled":
        return Nothing()
    import wandb

    options = _wandb_options(folder, config, resume)
    if mode != "offline":
        try:
            run = wandb.init(mode=mode, **options)
            say(f"wandb: {run.url}")
            return Wandb(run, first)
        except Exception as error:
            why = f"no answer ({one_line(error, 120)})"
            # The service still holds the id of the run that failed to start; a fresh service gives it back.
            # Not where the caller has a run of its own on that service: ours then fails below, told in one line.
            if wandb.run is None:
                wandb.teardown()
    run = wandb.init(mode="offline", **options)
    place = shlex.quote((folder / "wandb").as_posix())
    send = "wandb login && wandb sync" if why == "not logged in" else "wandb sync"
    say(f"wandb: {why}, so this run is recorded offline; send it: {send} {place}; view it: wandb leet {place}")
    return Wandb(run, first)


def _wandb_options(folder: Path, config: dict[str, Any], resume: bool) -> dict[str, Any]:
    """What every ``wandb.init`` of this run is called with; the environment's own choices are kept."""
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        save_code=False,
        finish_timeout=_WANDB_FINISH_TIMEOUT,
        finish_timeout_raises=True,
    )
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = _WANDB_INIT_TIMEOUT
    configured = wandb.setup(wandb.Settings(silent=True)).settings
    return {
        "id": _kept(folder / "wandb" / "id", resume, os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]),
        "resume": "allow",
        # A run of the caller's own is left alone.
        "reinit": "create_new",
        "project": os.environ.get("WANDB_PROJECT") or configured.project or PROJECT,
        "entity": os.environ.get("WANDB_ENTITY") or configured.entity,
        "name": os.environ.get("WANDB_NAME") or folder.resolve().name,
        "dir": str(folder.absolute()),
        "config": config,
        # A resumed run's config has one more part.
        "allow_val_change": True,
        "settings": settings,
    }


def _kept(path: Path, resume: bool, name: str) -> str:
    """What the tracker knows the run by: ``name``, kept in the folder so that a resumed run is the same one."""
    kept = path.read_text(encoding="utf-8").strip() if resume and path.exists() else ""
    if kept:
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name + "\n", encoding="utf-8")
    return name


class Trackio:
    """A trackio run, in trackio's own local store unless its environment variables say otherwise."""

    def __init__(self, folder: Path, config: dict[str, Any], *, resume: bool, say: Say) -> None:
        import trackio

        self._trackio: Any = trackio
        self._step = 0
        # Of several runs of one name it would go on with the latest, whichever folder is resumed.
        name = _kept(folder / "trackio" / "name", resume, f"{folder.resolve().name}-{uuid.uuid4().hex[:4]}")
        # It prints a page of hints to standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.init(
                project=PROJECT,
                name=name,
                config=config,
                resume="allow" if resume else "never",
                embed=False,
            )
        say(f"trackio: view it: trackio show --project {PROJECT}")

    def log(self, row: Row) -> None:
        # "step" is a reserved name there: it is the axis, not a metric.
        self._step = int(row.get("step", self._step))
        self._trackio.log({key: value for key, value in row.items() if key != "step"}, step=self._step)

    def finish(self, summary: Mapping[str, float], state: State) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.log({f"summary/{key}": value for key, value in summary.items()}, step=self._step)
            self._trackio.finish()


class TensorBoard:
    """TensorBoard's event files, in ``folder/tensorboard``."""

    def __init__(self, folder: Path, config: dict[str, Any], *, resume_step: int | None, say: Say) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._step = resume_step or 0
        place = folder / "tensorboard"
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(log_dir=str(place), purge_step=purge_step)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```", self._step)
        say(f"tensorboard: view it: tensorboard --logdir {shlex.quote(place.as_posix())}")

    def log(self, row: Row) -> None:
        self._step = int(row.get("step", self._step))
        for key, value in row.items():
            if key != "step":
                self._writer.add_scalar(key, value, self._step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, float], state: State) -> None:
        for key, value in summary.items():
            self._writer.add_scalar(f"summary/{key}", value, self._step)
        self._writer.close()
