"""The card beside weights: read back whole, or refused in one line; nothing else may come of a malformed one."""

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.normalization import Normalization, Normalize, encode_mean_image
from alexnet.weights.card import ModelCard

MEAN_IMAGE = encode_mean_image(np.arange(12.0).reshape(2, 2, 3))
WHOLE = ModelCard(
    "caffe",
    ("cat", "dog", "été"),
    Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), MEAN_IMAGE, "warp"),
    "pets",
    {"recipe": "paper", "step": 5, "val_acc, %": 81.5},
)
OLD = (  # as 0.1.0 wrote it, first and last
    '{"variant": "classic", "classes": ["a", "b"], "normalization": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}, '
    '"data": "pets"}',
    '{"variant": "classic", "classes": ["a", "b"], "normalization": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], '
    '"mean_image": ""}, "data": "pets", "record": {}}',
)


def test_a_card_is_read_back_whole() -> None:
    assert ModelCard.from_json(WHOLE.to_json()) == WHOLE


@pytest.mark.parametrize("text", OLD)
def test_cards_of_the_first_version_are_read(text: str) -> None:
    expected = ModelCard("classic", ("a", "b"), Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5)), "pets")
    assert ModelCard.from_json(text) == expected
    assert expected.normalization.resize == "short-side"


def refusal(text: Any) -> str:
    with pytest.raises(ValueError, match=r"^x\.ckpt: malformed card: ") as error:
        ModelCard.from_json(text, "x.ckpt")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("x.ckpt: malformed card: ")


def changed(**changes: Any) -> str:
    """The whole card with some fields replaced; ``norm_`` before a name means the normalisation's."""
    card = json.loads(WHOLE.to_json())
    for name, value in changes.items():
        place = card["normalization"] if name.startswith("norm_") else card
        place[name.removeprefix("norm_")] = value
    return json.dumps(card)


def test_what_is_wrong_with_a_card_is_said() -> None:
    assert refusal(None) == refusal("{") == refusal("[" * 100_000) == "not valid JSON"
    assert refusal("[]") == "the card: an object is wanted"
    assert refusal("{}") == "the card lacks variant, classes, normalization, data"
    assert refusal(changed(normalization=None)) == "normalization: an object is wanted"
    assert refusal(changed(normalization={"mean": [0, 0, 0]})) == "normalization lacks std"
    assert refusal(changed(norm_gamma=2)) == "normalization has 'gamma', which this version does not know"
    assert refusal(changed(norm_mean=[1, 2])) == "mean: three finite numbers are wanted"
    assert refusal(changed(norm_mean=[1, 2, float("nan")])) == "mean: three finite numbers are wanted"
    assert refusal(changed(norm_std=[1, 1, 0])) == "std: three positive numbers are wanted"
    assert refusal(changed(norm_resize="wrap")) == "resize 'wrap': allowed is one of short-side, warp"
    for wrong in ("AAAA", "no base64", MEAN_IMAGE[:-8], 3, None):
        assert refusal(changed(norm_mean_image=wrong)).startswith("mean_image: float32 values")
    assert refusal(changed(classes=[])) == refusal(changed(classes="ab")) == "classes: a list of names is wanted"
    assert refusal(changed(variant="a b")) == "variant: a name is wanted"
    assert refusal(changed(record=[1])) == "record: numbers and texts by name are wanted"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value, with every key or index in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1000), VALUES, st.sampled_from(["replace", "delete", "add", "cut"]))
def test_a_mutated_card_is_refused_or_usable(where: int, value: Any, change: str) -> None:
    card = copy.deepcopy(json.loads(WHOLE.to_json()))
    found = places(card)
    container, key = found[where % len(found)]
    match change:
        case "replace":
            container[key] = value
        case "delete":
            del container[key]
        case "add" if isinstance(container, list):
            container.append(value)
        case "add":
            container[str(value)] = value
    text = json.dumps(card)
    text = text[: where % len(text)] if change == "cut" else text
    try:
        read = ModelCard.from_json(text)
    except ValueError:
        refusal(text)
        return
    assert ModelCard.from_json(read.to_json()).normalization == read.normalization
    assert torch.isfinite(Normalize(read.normalization, 224)(torch.zeros(3, 224, 224, dtype=torch.uint8))).all()
    assert all(isinstance(name, str) for name in read.classes)


def test_a_256_pixel_mean_image_fits_a_card() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (256, 256, 3))
    norm = dataclasses.replace(WHOLE.normalization, mean_image=encode_mean_image(pixels))
    text = dataclasses.replace(WHOLE, normalization=norm).to_json()
    assert len(text) < 1_050_000
    assert ModelCard.from_json(text).normalization == norm
