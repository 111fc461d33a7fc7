"""What the page asks of a network: the same answers as elsewhere, of a picture and of its copies."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.data.datasets import Dataset
from alexnet.data.transforms import EvalTransform
from alexnet.model import AlexNet_2012
from alexnet.use import explain
from alexnet.use.demo import network as network_module
from alexnet.use.demo.network import Example, Network
from alexnet.use.predict import predict


def picture(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def indexed(network: Network) -> Network:
    network._index()
    return network


def test_the_answer_is_that_of_predict(network: Network, tmp_path) -> None:
    picture().save(tmp_path / "a.png")
    answer = network.answer(picture())
    (expected,) = predict(network.model, [tmp_path / "a.png"], 5, device="cpu", precision="fp32")
    assert [network.card.classes[index] for index, _ in answer.top] == [name for name, _ in expected.top]
    assert [share for _, share in answer.top] == pytest.approx([share for _, share in expected.top], abs=1e-5)


def test_copies_are_mirrored_and_moved(network: Network) -> None:
    """By hand: the mirror of the whole picture, and the crop taken 16 pixels further to the left and up."""
    whole, norm = picture(256, 256), network.card.normalization
    transform = EvalTransform(224, norm)
    flipped = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    moved = Image.new("RGB", whole.size)
    moved.paste(whole, (16, 16))
    answer = network.answer(whole)
    first = answer.top[0][0]
    with torch.inference_mode():
        logits = network.model(torch.stack([transform(each) for each in (whole, flipped, moved)]))
    probabilities = logits.softmax(1)
    assert [what for what, *_ in answer.copies] == ["as it is", "mirrored", "moved 16 pixels to the right and down"]
    assert [best for _, best, _ in answer.copies] == probabilities.argmax(1).tolist()
    assert [share for *_, share in answer.copies] == pytest.approx(probabilities[:, first].tolist(), abs=1e-5)
    assert len({round(share, 4) for *_, share in answer.copies}) == 3


def test_the_moved_copy_is_of_what_the_network_sees(
    model: AlexNet_2012, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    warped = dataclasses.replace(model.card.normalization, resize="warp")
    monkeypatch.setattr(model, "card", dataclasses.replace(model.card, normalization=warped))
    wide, judged = np.zeros((300, 600, 3), np.uint8), []
    wide[..., 0] = np.linspace(0, 255, 600).astype(np.uint8)
    found = Network(model, dataset, count=0)
    found._inputs, real = lambda crops: judged.extend(crops) or real(crops), found._inputs  # type: ignore[method-assign]
    found.answer(Image.fromarray(wide))
    as_it_is, _, moved = judged[:3]
    assert np.abs(as_it_is[:-16, :-16].astype(int) - moved[16:, 16:]).max() == 0


def test_evidence_is_grad_cam_of_each_class(network: Network) -> None:
    answer = network.answer(picture())
    x = explain.inputs(network.model, [picture()])
    for (index, _), cam in zip(answer.top, answer.cams, strict=True):
        expected = explain.grad_cam(network.model, x, torch.tensor([index]))[0]
        torch.testing.assert_close(cam, expected, atol=1e-5, rtol=1e-4)


def test_a_training_image_is_its_own_nearest(network: Network) -> None:
    assert network.neighbours(np.zeros((224, 224, 3), np.uint8)) is None  # nothing is known yet
    indexed(network)
    assert network.indexed == len(network.training) == 42
    own = network.training.image(17)
    deep, flat, farther = network.neighbours(network.answer(own).crop)
    assert deep.indices[0] == flat.indices[0] == 17
    assert deep.distances[0] == pytest.approx(0, abs=0.1)
    assert deep.distances == sorted(deep.distances)
    assert farther < 0.05


def test_what_is_like_nothing_in_the_data_is_farther_than_its_images(network: Network) -> None:
    indexed(network)
    stripes = np.tile(np.array([[0] * 8 + [255] * 8], np.uint8), (64, 4))[..., None].repeat(3, 2)
    assert network.neighbours(network.answer(Image.fromarray(stripes)).crop)[2] > 0.9


def test_a_fixed_choice_of_training_images(model: AlexNet_2012, dataset: Dataset) -> None:
    chosen = [Network(model, dataset, count=10, device="cpu").training for _ in range(2)]
    assert [len(each) for each in chosen] == [10, 10]
    assert [chosen[0].name(i) for i in range(10)] == [chosen[1].name(i) for i in range(10)]
    none = Network(model, dataset, count=0, device="cpu")
    assert none.index_ended
    assert "switched off" in none.why_no_index


def test_examples_are_of_all_classes_and_others_are_others(network: Network, model: AlexNet_2012) -> None:
    first, again, other = (network.examples(draw) for draw in (0, 0, 1))
    assert len(first) == 10
    assert {each.label for each in first} == set(range(7))
    assert [each.picture.tobytes() for each in first] == [each.picture.tobytes() for each in again]
    assert [each.picture.tobytes() for each in first] != [each.picture.tobytes() for each in other]
    given = Example(picture(), 3)
    assert Network(model, None, [given], device="cpu").examples(4) == [given]


def test_a_picture_comes_before_the_next_block(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the training images are looked at, an answer waits for one block at most."""
    inside, blocks, features = threading.Event(), [], explain.features

    def slow(*arguments, **options):
        blocks.append(1)
        inside.set()
        time.sleep(0.03)
        return features(*arguments, **options)

    monkeypatch.setattr(explain, "features", slow)
    monkeypatch.setattr(network_module, "BLOCK", 1)
    thread = threading.Thread(target=network._index)
    thread.start()
    inside.wait(10)
    began = len(blocks)
    network.answer(picture())
    assert len(blocks) <= began + 3  # without the turns it would have waited for all of them
    network.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert network.index_ended
    assert network.indexed < 42


def test_a_damaged_training_image_costs_the_neighbours_alone(network: Network, monkeypatch) -> None:
    monkeypatch.setattr(explain, "features", lambda *_, **__: (_ for _ in ()).throw(ValueError("row 3: damaged")))
    indexed(network)
    assert network.index_ended
    assert network.why_no_index == "row 3: damaged"
    assert network.answer(picture()).top
