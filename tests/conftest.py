"""What all tests share."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. Another number of threads adds in another order, and several test processes with a thread
# for every core slow each other down tenfold.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a script's background ignores it
settings.register_profile("no deadline", deadline=None)  # other tests may run beside it
settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU, unless ``-m`` asks for its tests: the promises bit for bit are for a CPU."""
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch is not imported yet


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The compiled C++ goes to a folder of the test run, not to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _quick_runs() -> Iterator[None]:
    """A run ends with the number of classes as its curves.png, because drawing takes longer than a few steps.

    Runs in processes of their own draw it, and a test that imports ``draw_curves`` has the real one.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("curves", "train"):
            patch.setattr(f"alexnet.{module}.draw_curves", lambda folder, n: (folder / "curves.png").write_text(str(n)))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``runs.make_images`` makes. Nobody changes it."""
    from runs import make_images

    return make_images(tmp_path_factory.mktemp("images"))
