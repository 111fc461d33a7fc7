"""The resident path against torchvision's PIL pipeline."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from alexnet.data.resident import CropMatrices, centre_crop, draw_boxes, draw_crops, resampling_matrix

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def matrices() -> CropMatrices:
    return CropMatrices(source=32, side=256, crop=224, smallest=198, device=CPU)


def pil_crops(images: torch.Tensor, boxes, crop: int = 224) -> torch.Tensor:
    """The same boxes by torchvision on PIL images: float32 [N, 3, crop, crop] in 0..255."""
    out = []
    for i, pixels in enumerate(images):
        box = [int(t[i]) for t in (boxes.top, boxes.left, boxes.height, boxes.width)]
        image = TF.resized_crop(TF.resize(Image.fromarray(pixels.numpy()), [256]), *box, [crop, crop])
        image = TF.hflip(image) if boxes.flip[i] else image
        out.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float())
    return torch.stack(out)


def smooth_images(count: int, side: int = 32) -> torch.Tensor:
    """uint8 [count, side, side, 3] with edges and gradients, like photographs, and their full range of values."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 300 - 20
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return images.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_agrees_with_pil(matrices: CropMatrices, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    images = (
        smooth_images(48)
        if kind == "smooth"
        else torch.randint(0, 256, (48, 32, 32, 3), dtype=torch.uint8, generator=generator)
    )
    boxes = draw_boxes(48, 256, generator, flip=True)
    assert boxes.flip.any()
    assert not boxes.flip.all()
    ours = matrices.apply(images.float(), boxes)
    assert (ours - pil_crops(images, boxes)).abs().max() <= 2.0


def test_centre_crop_agrees_with_pil() -> None:
    images = smooth_images(8)
    ours = centre_crop(32, 256, 224, CPU)(images.float())
    compose = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    theirs = [torch.from_numpy(np.array(compose(Image.fromarray(i.numpy())))).permute(2, 0, 1) for i in images]
    assert (ours - torch.stack(theirs)).abs().max() <= 2.0


@settings(deadline=None, max_examples=20)
@given(source=st.integers(1, 80), target=st.integers(1, 80))
def test_resampling_is_pils(source: int, target: int) -> None:
    matrix = resampling_matrix(source, target)
    assert matrix.shape == (target, source)
    assert torch.allclose(matrix.sum(1), torch.ones(target, dtype=torch.float64))
    line = np.random.default_rng(0).uniform(0, 255, source).astype(np.float32)
    image = Image.fromarray(np.repeat(line[:, None], 2, axis=1), mode="F")
    theirs = np.asarray(image.resize((2, target), Image.Resampling.BILINEAR))[:, 0]
    assert np.abs(matrix.numpy() @ line - theirs).max() < 0.01


def test_every_other_size_of_source() -> None:
    for side in (1, 8, 28, 64):
        boxes = draw_boxes(2, 256, torch.Generator(), flip=True)
        out = CropMatrices(side, 256, 224, 198, CPU).apply(torch.full((2, side, side, 3), 7.0), boxes)
        assert out.shape == (2, 3, 224, 224)
        assert torch.allclose(out, torch.tensor(7.0))  # constant images stay constant: the rows sum to 1


def test_output_is_channels_last(matrices: CropMatrices) -> None:
    for out in (
        matrices.apply(torch.rand(3, 32, 32, 3), draw_boxes(3, 256, torch.Generator(), flip=True)),
        centre_crop(32, 256, 224, CPU)(torch.rand(3, 32, 32, 3)),
    ):
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_boxes_have_torchvisions_distribution() -> None:
    """Two-sample Kolmogorov-Smirnov on area, ratio and position against RandomResizedCrop itself."""
    from scipy.stats import ks_2samp

    count = 4000
    boxes = draw_boxes(count, 256, torch.Generator().manual_seed(0), flip=True)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(224, scale=(0.8, 1.0))
    image = torch.empty(3, 256, 256)
    drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = {key: np.array([d[key] for d in drawn], dtype=float) for key in ("top", "left", "height", "width")}
    ours = {key: getattr(boxes, key).double().numpy() for key in theirs}
    for what in (
        lambda b: b["height"] * b["width"],
        lambda b: b["width"] / b["height"],
        lambda b: b["top"],
        lambda b: b["left"],
    ):
        assert ks_2samp(what(ours), what(theirs)).pvalue > 0.01
    assert abs(boxes.flip.double().mean() - 0.5) < 0.03


def test_boxes_stay_inside_and_above_the_smallest() -> None:
    boxes = draw_boxes(20000, 256, torch.Generator().manual_seed(0), flip=False)
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.top + boxes.height <= 256).all()
    assert (boxes.left + boxes.width <= 256).all()
    assert min(boxes.height.min(), boxes.width.min()) >= 198
    assert not boxes.flip.any()


def test_crops_have_torchvisions_distribution() -> None:
    from scipy.stats import ks_2samp

    crops = draw_crops(4000, 256, 224, torch.Generator().manual_seed(0), flip=True)
    torch.manual_seed(0)
    theirs = [v2.RandomCrop(224).make_params([torch.empty(3, 256, 256)]) for _ in range(4000)]
    for key in ("top", "left"):
        ours = getattr(crops, key)
        assert (ours.min(), ours.max()) == (0, 32)
        assert ks_2samp(ours.numpy(), np.array([drawn[key] for drawn in theirs])).pvalue > 0.01
    assert set(crops.height.tolist()) == set(crops.width.tolist()) == {224}
    assert np.corrcoef(crops.top, crops.left)[0, 1] == pytest.approx(0, abs=0.05)
    assert abs(crops.flip.double().mean() - 0.5) < 0.03


def test_crops_agree_with_pil() -> None:
    images = smooth_images(16)
    crops = draw_crops(16, 256, 224, torch.Generator().manual_seed(1), flip=True)
    ours = CropMatrices(32, 256, 224, 224, CPU).apply(images.float(), crops)
    assert (ours - pil_crops(images, crops)).abs().max() <= 2.0


def test_where_no_box_fits_the_whole_image_is_taken() -> None:
    boxes = draw_boxes(5, 256, torch.Generator(), flip=False, scale=(1.0, 1.0), ratio=(2.0, 3.0))
    assert {*boxes.top.tolist(), *boxes.left.tolist()} == {0}
    assert {*boxes.height.tolist(), *boxes.width.tolist()} == {256}
