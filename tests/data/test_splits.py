"""A split: how it decodes, subsets and travels."""

import io
import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet.data import splits
from alexnet.data.images import ImageError, open_image
from alexnet.data.splits import Dataset, Images, hold_out
from alexnet.data.stores import Encoded, Files, Pixels

SHAPE = (12, 5, 7, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def column(contents: list[bytes | None]) -> pa.ChunkedArray:
    rows = pa.array([{"bytes": content, "path": None} for content in contents])
    return pa.chunked_array([rows.slice(0, 5), rows.slice(5)])


@pytest.fixture(params=["pixels", "encoded", "files"])
def images(request, tmp_path):
    """The same twelve images in each kind of store."""
    if request.param == "pixels":
        store = Pixels(PIXELS, "made up")
    elif request.param == "encoded":
        store = Encoded(column([png(array) for array in PIXELS]), (0, 4), ("a.parquet", "b.parquet"))
    else:
        paths = [tmp_path / f"{i}.png" for i in range(len(PIXELS))]
        for path, array in zip(paths, PIXELS, strict=True):
            path.write_bytes(png(array))
        store = Files([str(path) for path in paths])
    return Images(np.arange(12) % 3, store)


def test_every_store_gives_the_same_images(images):
    assert len(images) == 12
    assert images.image(3).mode == "RGB"
    assert all(np.array_equal(images.image(i), PIXELS[i]) for i in range(12))
    assert np.array_equal(images.image(-1), PIXELS[-1])
    assert np.array_equal(images.array(), PIXELS)
    with pytest.raises(IndexError):
        images.image(12)


def test_every_store_gives_the_bytes_it_keeps(images):
    kept = images.subset([4]).encoded(0)
    whole = np.frombuffer(kept, np.uint8) if isinstance(images.store, Pixels) else np.asarray(open_image(kept, "x"))
    assert np.array_equal(whole.reshape(SHAPE[1:]), PIXELS[4])


def test_a_holdout_has_its_share_of_each_class_and_leaves_the_test_set_alone():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = (Images(labels, Pixels(np.zeros((100, 2, 2, 3), np.uint8), name)) for name in ("train", "test"))
    source = Dataset("spec", "name", ("a", "b", "c"), train, test, "test")
    found = source.with_holdout(10)
    assert np.bincount(found.val.labels).tolist() == [5, 3, 2]
    assert np.bincount(found.train.labels).tolist() == [45, 27, 18]
    assert found.test is test
    assert (found.val_split, source.test) == ("holdout", None)
    assert found.with_holdout(5) is found  # it has images to validate on, and others to be judged by
    names = [{images.name(i) for i in range(len(images))} for images in (found.train, found.val)]
    assert (len(names[0]), len(names[1])) == (90, 10)
    assert not names[0] & names[1]
    again = source.with_holdout(10).val
    assert [again.name(i) for i in range(10)] == [found.val.name(i) for i in range(10)]
    for count in (0, 100):
        with pytest.raises(ValueError, match=rf"--holdout {count}: allowed is 0 to 99, for name has 100"):
            source.with_holdout(count)


def test_a_holdout_of_nothing_is_refused():
    single = Images(np.arange(3), Pixels(np.zeros((3, 2, 2, 3), np.uint8), "train"))
    with pytest.raises(ValueError, match=r"--holdout 1: name has one training image a class, and keeps it"):
        Dataset("spec", "name", ("a", "b", "c"), single, single, "test").with_holdout(1)


def test_a_data_set_as_a_recipe_has_it():
    images = Images(np.repeat([0, 1], 50), Pixels(np.zeros((100, 2, 2, 3), np.uint8), "train"))
    source = Dataset("spec", "name", ("a", "b"), images, images, "test")
    assert source.as_in(flip=True).flip
    found = source.as_in(20, 10, flip=False)
    assert (len(found.train), len(found.val), found.test, found.flip) == (10, 20, images, False)
    learned, held = ({each.name(i) for i in range(len(each))} for each in (found.train, found.val))
    assert not learned & held


def test_fewer_images_are_of_every_class():
    images = Images(np.repeat([0, 1, 2, 3], [60, 37, 2, 1]), Pixels(np.zeros((100, 2, 2, 3), np.uint8), "train"))
    source = Dataset("spec", "name", tuple("abcd"), images, images, "test")
    assert np.bincount(source.with_fewer(10).train.labels).tolist() == [6, 4, 1, 1]
    assert np.bincount(source.with_fewer(99).train.labels).tolist() == [59, 37, 2, 1]


def test_array_is_decoded_once(images):
    assert images.array() is images.array()


def test_array_keeps_to_its_limit(images, monkeypatch):
    monkeypatch.setattr(splits, "ARRAY_LIMIT", PIXELS.nbytes - 1)
    assert images.array() is None
    monkeypatch.setattr(splits, "ARRAY_LIMIT", PIXELS.nbytes)
    assert images.array().nbytes == PIXELS.nbytes


def test_subset(images):
    some = images.subset([4, 2, 2, -1])
    assert some.labels.tolist() == [1, 2, 2, 2]
    assert np.array_equal(some.array(), PIXELS[[4, 2, 2, 11]])
    assert some.name(0) == images.name(4)
    assert np.array_equal(some.subset(np.array([3, 0])).array(), PIXELS[[11, 4]])
    assert np.array_equal(images.subset(images.labels == 1).array(), PIXELS[1::3])
    assert len(images.subset([])) == 0
    assert images.subset([]).array() is None
    with pytest.raises(IndexError):
        images.subset([12])


@given(first=st.lists(st.integers(0, 11), min_size=1, max_size=20), data=st.data())
def test_a_subset_of_a_subset(first, data):
    images = Images(np.arange(12), Pixels(PIXELS, "made up"))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=20))
    chosen = images.subset(first).subset(second)
    expected = [first[i] for i in second]
    assert chosen.labels.tolist() == expected
    assert [chosen.name(i) for i in range(len(chosen))] == [images.name(i) for i in expected]


def test_it_travels_to_a_worker_without_what_it_decoded(images):
    images.array()
    copy = pickle.loads(pickle.dumps(images))
    assert not copy._decoded
    assert np.array_equal(copy.image(7), PIXELS[7])
    assert np.array_equal(copy.labels, images.labels)


def test_names():
    store = Encoded(column([png(array) for array in PIXELS]), (0, 4), ("a.parquet", "b.parquet"))
    images = Images(np.zeros(12, np.int64), store)
    assert [images.name(i) for i in (0, 3, 4, 11)] == [
        "a.parquet row 0",
        "a.parquet row 3",
        "b.parquet row 0",
        "b.parquet row 7",
    ]
    titled = pa.chunked_array([pa.array([{"bytes": b"", "path": "cat_1.jpg"}])])
    assert Encoded(titled, (0,), ("a.parquet",)).name(0) == "a.parquet row 0 (cat_1.jpg)"


def test_images_of_several_sizes_give_no_array():
    contents = [png(array) for array in PIXELS] * 20
    contents[217] = png(PIXELS[0, :4])
    assert Images(np.zeros(240, np.int64), Encoded(column(contents), (0,), ("a",))).array() is None


def test_a_damaged_image_is_named_by_array():
    contents = [png(array) for array in PIXELS] * 20
    contents[217] = contents[217][:60]
    images = Images(np.zeros(240, np.int64), Encoded(column(contents), (0,), ("a.parquet",)))
    with pytest.raises(ImageError, match=r"^a.parquet row 217: damaged"):
        images.array()
    with pytest.raises(ImageError, match=r"^a.parquet row 217: damaged"):
        images.subset([217]).image(0)


def test_a_row_without_an_image_is_named():
    store = Encoded(
        pa.chunked_array([pa.array([{"bytes": None, "path": None}, None, {"bytes": b"", "path": "x"}])]), (0,), ("a",)
    )
    for row, what in (
        (0, "a row 0: the row holds no image"),
        (1, "a row 1: the row holds no image"),
        (2, "a row 2 .x.: empty"),
    ):
        with pytest.raises(ImageError, match=what):
            Images(np.zeros(3, np.int64), store).image(row)


def pointing(path, *folders):
    rows = pa.array([{"bytes": None, "path": str(path)}])
    return Images(
        np.zeros(1, np.int64), Encoded(pa.chunked_array([rows]), (0,), ("a",), tuple(map(os.path.realpath, folders)))
    )


def test_a_row_may_point_to_a_file_of_the_data_set(tmp_path, monkeypatch):
    inside = tmp_path / "set" / "images" / "x.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(png(PIXELS[0]))
    monkeypatch.chdir(tmp_path)
    for images in (
        pointing("images/x.png", tmp_path / "set"),
        pointing("images/../images/x.png", "set"),
        pointing(inside, "elsewhere", "set"),
    ):
        assert np.array_equal(images.image(0), PIXELS[0])
        assert images.encoded(0) == inside.read_bytes()


def test_a_row_may_not_point_to_any_other_file(tmp_path):
    (tmp_path / "set").mkdir()
    outside = tmp_path / "x.png"
    outside.write_bytes(png(PIXELS[0]))
    (tmp_path / "set" / "link.png").symlink_to(outside)
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    (tmp_path / "settle").mkdir()
    (tmp_path / "settle" / "x.png").write_bytes(png(PIXELS[0]))
    for path in (outside, "../x.png", "link.png", "up/x.png", "../settle/x.png", "none/../../x.png"):
        images = pointing(path, tmp_path / "set")
        text = f"a row 0 ({path}): the row points to a file outside of '{os.path.realpath(tmp_path / 'set')}'"
        for read in (images.image, images.encoded, lambda _, images=images: images.fingerprint()):
            with pytest.raises(ImageError) as caught:
                read(0)
            assert str(caught.value) == text
    with pytest.raises(ImageError, match=r"a row 0 .*: the row points to a file outside of"):
        pointing(outside).image(0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.sampled_from([5, 10]))
def test_hold_out_takes_a_share_of_every_class(labels, part):
    images = Images(np.array(labels), Pixels(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], "x"))
    train, held = hold_out(images, part)
    names = [side.name(i) for side in (train, held) for i in range(len(side))]
    assert sorted(names) == sorted(images.name(i) for i in range(len(images)))
    for label in set(labels):
        count, taken = labels.count(label), int((held.labels == label).sum())
        assert taken == min(max(1, round(count / part)), count - 1)
    again = hold_out(images, part)[1]
    assert [again.name(i) for i in range(len(again))] == [held.name(i) for i in range(len(held))]


def test_of_data_without_a_test_split_none_is_given_for_one() -> None:
    images = Images(np.arange(2), Pixels(np.zeros((2, 2, 2, 3), np.uint8), "x"))
    on_val, on_test = (Dataset("spec", "name", ("a", "b"), images, images, split) for split in ("val", "test"))
    assert on_val.eval_images("val") == ("val", images)
    assert on_test.eval_images("test") == ("test", images)
    with pytest.raises(ValueError, match=r"^--split test: .*; allowed is val$"):
        on_val.eval_images("test")
