"""Smoke test of an installed wheel, run by ``make wheel-test`` with the Python of a fresh environment."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALEXNET = str(Path(sys.executable).with_name("alexnet"))


def alexnet(*words: str) -> str:
    return subprocess.run([ALEXNET, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    import numpy as np
    import torch
    from PIL import Image

    import alexnet as package
    from alexnet import AlexNet_2012, load_model, local_response_norm
    from alexnet.lrn import lrn_backend

    assert not Path(package.__file__).is_relative_to(ROOT / "src"), "the source tree, not the wheel"
    print(f"alexnet {package.__version__} in {Path(package.__file__).parent}")

    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    expected = torch.nn.functional.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
    assert torch.allclose(local_response_norm(x), expected, atol=1e-5)
    print(f"response normalisation: {lrn_backend(torch.device('cpu'))}")
    assert AlexNet_2012(num_classes=10)(torch.randn(1, 3, 224, 224)).shape == (1, 10)

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    print(alexnet("predict", "cifar10-small", "photo.png").strip())
    alexnet("train", "quickstart", "--max-steps", "2", "--width-mult", "0.25", "--out", "run", "--quiet")
    assert load_model("run").num_classes == 10

    demo = subprocess.Popen([ALEXNET, "demo", "--port", "7899"], stdout=sys.stderr)
    try:
        until = time.monotonic() + 120
        while demo.poll() is None and time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, OSError):
                with urllib.request.urlopen("http://127.0.0.1:7899/", timeout=5) as page:
                    assert page.status == 200
                print("the demo answers")
                return
            time.sleep(1)
        raise SystemExit("the demo did not answer within two minutes")
    finally:
        demo.terminate()
        demo.wait(30)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where no source tree is found
        main()
