"""Tensors as pictures: the right colours in the right places."""

import numpy as np
import torch
from PIL import Image

from alexnet.use.explain import ReceptiveField
from alexnet.use.explain.pictures import map_picture, over_picture, patch_picture, share_picture, thumbnail

ORANGE, BLUE, WHITE = (192, 86, 47), (47, 102, 144), (255, 255, 255)


def test_a_map_is_orange_above_zero_and_blue_below() -> None:
    picture = map_picture(torch.tensor([[2.0, -2.0], [0.0, 1.0]]), 2.0)
    assert picture.size == (2, 2)
    assert [picture.getpixel(at) for at in ((0, 0), (1, 0), (0, 1))] == [ORANGE, BLUE, WHITE]
    assert picture.getpixel((1, 1)) == tuple(round((a + 255) / 2) for a in ORANGE)
    assert map_picture(torch.zeros(2, 2), 0.0).getpixel((0, 0)) == WHITE


def test_cells_lie_at_the_centre_of_what_they_look_at() -> None:
    """13 cells of 16 pixels on a picture of 224 leave 8 pixels free at either side: they are not stretched over it."""
    values = torch.zeros(13, 13)
    values[0, 12], values[6, 6] = 1.0, -0.5
    picture = over_picture(Image.new("RGB", (224, 224), "black"), values, ReceptiveField(163, 16, -66)).convert("RGB")
    pixels = np.asarray(picture).astype(int)
    red = (pixels[..., 0] - pixels[..., 2]) > 30
    blue = (pixels[..., 2] - pixels[..., 0]) > 30
    assert [(int(each.min()), int(each.max())) for each in np.nonzero(red)] == [(8, 23), (200, 215)]
    assert [(int(each.min()), int(each.max())) for each in np.nonzero(blue)] == [(104, 119), (104, 119)]
    grey = picture.getpixel((3, 3))
    assert len(set(grey)) == 1


def test_a_map_of_zeros_leaves_the_picture_grey() -> None:
    field = ReceptiveField(163, 16, -66)
    picture = over_picture(Image.new("RGB", (224, 224), "red"), torch.zeros(13, 13), field).convert("RGB")
    assert all(len(set(colour)) == 1 for _, colour in picture.getcolors())


def test_a_patch_is_cut_where_its_box_is() -> None:
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[100:111, 40:51] = (10, 200, 30)
    patch = patch_picture(Image.fromarray(pixels), (40, 100, 51, 111))
    assert patch.size == (11, 11)
    assert patch.getcolors() == [(121, (10, 200, 30, 255))]
    edge = patch_picture(Image.fromarray(pixels), (-5, 219, 6, 230))
    alpha = np.asarray(edge)[..., 3]
    assert (alpha[:5, 5:] == 255).all()
    assert (alpha[5:] == 0).all()
    assert (alpha[:, :5] == 0).all()


def test_thumbnails_are_small_and_small_pictures_stay_as_they_are() -> None:
    large = thumbnail(Image.new("RGB", (300, 200)))
    assert large.size == (64, 43)
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    assert thumbnail(small).tobytes() == small.tobytes()


def test_a_confusion_matrix_is_white_where_nothing_is() -> None:
    picture = share_picture([[4, 0], [0, 0]])
    assert [picture.getpixel(at) for at in ((0, 0), (1, 0), (0, 1), (1, 1))] == [BLUE, WHITE, WHITE, WHITE]
