"""What converted weights see: Caffe's own input, by its arithmetic in numpy; and what was saved keeps its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.normalization import Normalization
from alexnet.data.transforms import EvalTransform
from alexnet.use.predict import predict
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import load_model
from alexnet.weights.convert import convert
from caffe_files import blob, caffe_layers, caffemodel, fresh


@pytest.fixture
def folder(tiny_network: None, tmp_path: Path) -> Path:
    return tmp_path


def caffes_input(image: Image.Image, mean: np.ndarray) -> np.ndarray:
    """What Caffe makes of an RGB image of 256×256 at test: src/caffe/data_transformer.cpp, in numpy. BGR."""
    datum = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    first = (256 - 227) // 2
    return (datum - mean)[:, first : first + 227, first : first + 227]


def test_a_converted_network_sees_what_caffes_sees(folder: Path) -> None:
    """The file's mean image pixel by pixel, BGR and RGB, the warped image: input and logits."""
    random = np.random.default_rng(0)
    mean = random.uniform(90, 140, (3, 256, 256)).astype(np.float32)
    image = Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    theirs = caffes_input(image, mean)
    model = fresh("caffe", 4)
    (folder / "net.caffemodel").write_bytes(caffemodel(caffe_layers(model)))
    (folder / "ilsvrc.binaryproto").write_bytes(blob(mean[None], "sides"))
    convert(folder / "net.caffemodel", folder / "net.safetensors")
    again = load_model(folder / "net.safetensors")
    norm = again.card.normalization
    assert norm.resize == "warp"
    ours = EvalTransform(227, norm)(image)
    assert np.abs(ours.numpy() - theirs[::-1]).max() < 1e-3  # of 255
    bgr = fresh("caffe", 4)
    bgr.features.conv1.weight.data = bgr.features.conv1.weight.data.flip(1)
    expected = bgr(torch.from_numpy(theirs.copy())[None])
    assert torch.allclose(again(ours[None]), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    image.resize((400, 256)).save(folder / "wide.png")  # through the whole way: warped, then answered
    image.save(folder / "square.png")
    wide, square = predict(again, [folder / "wide.png", folder / "square.png"], 4, device="cpu", precision="fp32")
    assert dict(square.top) == pytest.approx(dict(zip("0123", expected.softmax(1)[0].tolist(), strict=True)), abs=1e-4)
    warped = EvalTransform(227, norm)(Image.open(folder / "wide.png"))
    expected = again(warped[None]).softmax(1)[0].tolist()
    assert dict(wide.top) == pytest.approx(dict(zip("0123", expected, strict=True)), abs=1e-4)


def test_a_mean_image_of_another_size_gives_channel_means(folder: Path) -> None:
    (folder / "net.caffemodel").write_bytes(caffemodel(caffe_layers(fresh("caffenet", 4))))
    (folder / "mean.binaryproto").write_bytes(blob(np.full((3, 128, 200), 51.0) * [[[1]], [[2]], [[3]]]))
    told = convert(folder / "net.caffemodel", folder / "net.safetensors")["normalization"]
    assert told.endswith("minus the channel means of mean.binaryproto, for its 128×200 pixels are not 256×256")
    norm = load_model(folder / "net.safetensors").card.normalization
    assert (norm.mean, norm.mean_image, norm.resize) == (pytest.approx((0.6, 0.4, 0.2)), "", "warp")


def test_a_saved_folder_keeps_its_card(folder: Path) -> None:
    model = fresh("caffenet", 2)
    model.card = ModelCard("caffenet", ("cat", "dog"), Normalization((0.1, 0.2, 0.3), (1 / 255,) * 3), "pets")
    model.save_pretrained(folder / "hub")
    for source in (folder / "hub", folder / "hub" / "model.safetensors"):
        told = convert(source, folder / "out.safetensors")
        assert told["normalization"] == "as in the file, which is this project's own"
        again = load_model(folder / "out.safetensors")
        assert again.card == model.card
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"--variant caffe: .* says that its weights are of variant caffenet"):
        convert(folder / "hub", folder / "out.safetensors", "caffe")
    model.card = None
    model.save_pretrained(folder / "hub")
    told = convert(folder / "hub" / "model.safetensors", folder / "out.safetensors")
    assert told["variant"] == "caffenet"  # config.json says so
    assert told["normalization"].startswith("assumed: ")
    with pytest.raises(ValueError, match="saved without a card"):
        convert(folder / "hub", folder / "out.safetensors")
