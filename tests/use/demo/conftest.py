"""A small network whose classes have names that a page must survive, its data, and a page of them that is served."""

import shutil
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet.data.datasets import Dataset, Images
from alexnet.data.normalization import Normalization
from alexnet.data.splits import Pixels
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.use.demo.network import Network
from alexnet.weights.card import ModelCard
from tiny import tiny_variants

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "",
    "قطة \u202e tac",
    "w" * 300,
    "${alert(1)}",
    "{{constructor}}",
    "cat & 'dog'",
)
NORM = Normalization((0.5, 0.4, 0.6), (0.25, 0.25, 0.25))


def images(count: int, seed: int) -> Images:
    """Noise around a colour for each class, ``count`` a class."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(0, 256, (len(HOSTILE), 3))
    labels = np.repeat(np.arange(len(HOSTILE)), count)
    noisy = random.normal(colours[labels][:, None, None], 25, (len(labels), 32, 32, 3))
    return Images(labels, Pixels(np.clip(noisy, 0, 255).astype(np.uint8), "colours"))


@pytest.fixture(scope="session")
def model() -> AlexNet_2012:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "classic", tiny_variants()["classic"])  # type: ignore[arg-type]
        torch.manual_seed(1)
        model = AlexNet_2012(len(HOSTILE), init="he").eval().requires_grad_(False)
    model.card = ModelCard("classic", HOSTILE, NORM, "colours", {"val_acc, %": 71.5, "step": 1200})
    return model


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset("colours", "colours", HOSTILE, images(6, seed=1), images(4, seed=2), "test")


@pytest.fixture
def network(model: AlexNet_2012, dataset: Dataset) -> Network:
    return Network(model, dataset, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def page(model: AlexNet_2012, dataset: Dataset) -> Iterator[SimpleNamespace]:
    """A page that is being served: its ``url``, its ``network`` and the ``folder`` of what is uploaded."""
    pytest.importorskip("gradio", reason="needs gradio: pip install 'alexnet-2012[demo]'")
    from alexnet.use.demo.server import serve

    network = Network(model, dataset, device="cpu", precision="fp32")
    server = serve(network, port=0)
    yield SimpleNamespace(url=server.url, network=network, folder=server._folder)
    server.close()
    assert not server._folder.exists()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's browser; Playwright's own is not fetched."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("needs a browser: apt-get install chromium")
    return found
