"""What all tests share."""

import os
import sys
from collections.abc import Iterator

# Before torch is there. Another number of threads adds in another order; and several test processes with a thread for
# every core slow each other down tenfold.
os.environ["OMP_NUM_THREADS"] = "1"
if "gpu" not in sys.argv:  # of `-m gpu`
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is promised bit for bit is a CPU's

import pytest
from hypothesis import settings

from alexnet.model import VARIANTS
from tiny import tiny_variants

settings.register_profile("whatever runs beside it", deadline=None)
settings.load_profile("whatever runs beside it")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cached statistics go to a folder of the test run, not to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tiny_network() -> Iterator[None]:
    """Few maps in every variant: for tests of what surrounds the network."""
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in tiny_variants().items():
            patch.setitem(VARIANTS, name, variant)  # type: ignore[arg-type]
        yield
