"""Which images these are, in 16 digits: the same at another place, others for any change."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.data import splits
from alexnet.data.datasets import load
from alexnet.data.images import ImageError
from alexnet.data.splits import Dataset, Images
from alexnet.data.stores import Encoded, Files, Pixels

COUNT = 12
CONTENTS = [bytes([65 + i]) * 48 for i in range(COUNT)]  # never decoded


def of(store, labels=None, val=None):
    train = Images(np.arange(COUNT) % 3 if labels is None else np.array(labels), store)
    return Dataset("spec", "name", ("a", "b", "c"), train, val or train.subset([0, 1]), "val").fingerprint()


def pixels(contents):
    return Pixels(np.stack([np.frombuffer(content, np.uint8).reshape(4, 4, 3) for content in contents]), "made up")


def encoded(contents, path=None):
    return Encoded(pa.chunked_array([pa.array([{"bytes": c, "path": path} for c in contents])]), (0,), (str(path),))


@pytest.fixture
def files(tmp_path):
    def write(contents, folder="one"):
        paths = []
        for i, content in enumerate(contents):
            paths.append(tmp_path / folder / "class" / f"{i:02}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_bytes(content)
        return Files([str(path) for path in paths], str(tmp_path / folder))

    return write


@pytest.fixture(params=["pixels", "encoded", "files"])
def store(request, files):
    return {"pixels": pixels, "encoded": encoded, "files": files}[request.param]


def test_a_class_may_be_named_in_bytes_that_are_no_text():
    def of_class(name):
        train = Images(np.arange(COUNT) % 2, pixels(CONTENTS))
        return Dataset("spec", "name", ("a", name), train, train.subset([0, 1]), "val").fingerprint()

    assert len({of_class(name) for name in ("b", os.fsdecode(b"b\xff"), os.fsdecode(b"b\xfe"))}) == 3


def test_any_change_changes_it(store):
    same = of(store(CONTENTS))
    assert len(same) == 16
    assert int(same, 16)
    assert of(store(CONTENTS)) == same
    changed = [*CONTENTS[:7], b"Z" * 48, *CONTENTS[8:]]
    swapped = [CONTENTS[1], CONTENTS[0], *CONTENTS[2:]]
    train = Images(np.arange(COUNT) % 3, store(CONTENTS))
    others = [
        of(store(changed)),
        of(store(swapped), np.arange(COUNT) % 3),
        of(store(CONTENTS), [0, 0, *np.arange(2, COUNT) % 3]),
        of(store(CONTENTS), val=train.subset([1, 0])),
        Dataset("spec", "name", ("a", "c", "b"), train, train.subset([0, 1]), "val").fingerprint(),
        Dataset("spec", "name", ("a", "b", "c"), train, train.subset([0, 1]), "val", test=train).fingerprint(),
    ]
    assert len({same, *others}) == 7


def test_it_does_not_depend_on_the_place_or_the_spec(files, tmp_path):
    assert of(files(CONTENTS)) == of(files(CONTENTS, "elsewhere/deeper"))
    assert of(encoded(CONTENTS, "here.png")) == of(encoded(CONTENTS, "there.png"))
    (tmp_path / "one" / "class" / "11.png").rename(tmp_path / "one" / "class" / "1x.png")
    paths = sorted(str(path) for path in (tmp_path / "one" / "class").iterdir())
    assert of(Files(paths, str(tmp_path / "one"))) != of(files(CONTENTS, "elsewhere/deeper"))


def test_of_many_bytes_all_sizes_and_a_sample_are_looked_at(store, monkeypatch):
    read = []
    monkeypatch.setattr(splits, "_READ_WHOLE", COUNT * 40)
    monkeypatch.setattr(splits, "_READ_OF_MORE", 3)
    kind = type(store(CONTENTS))
    whole = kind.encoded
    monkeypatch.setattr(kind, "encoded", lambda self, row: (read.append(row), whole(self, row))[1])
    same = of(store(CONTENTS))
    assert read[:3] == [0, 5, 11]
    assert of(store([*CONTENTS[:5], b"Z" * 48, *CONTENTS[6:]])) != same
    if kind is not Pixels:
        assert of(store([*CONTENTS[:4], b"Z" * 47, *CONTENTS[5:]])) != same


def test_rows_that_point_to_files(tmp_path):
    for i, content in enumerate(CONTENTS):
        (tmp_path / f"{i}.png").write_bytes(content)
    rows = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(COUNT)]
    folders = (os.path.realpath(tmp_path),)
    assert of(Encoded(pa.chunked_array([pa.array(rows)]), (0,), ("a",), folders)) == of(encoded(CONTENTS))
    rows[4] = {"bytes": None, "path": None}
    with pytest.raises(ImageError, match="a row 4: the row holds no image"):
        of(Encoded(pa.chunked_array([pa.array(rows)]), (0,), ("a",), folders))


def test_a_folder_that_moved_is_the_same_data_set(tmp_path):
    rows = pa.array([{"bytes": content, "path": None} for content in CONTENTS])
    (tmp_path / "here").mkdir()
    for split in ("train", "test"):
        table = pa.table({"img": rows, "label": np.arange(COUNT) % 3})
        pq.write_table(table, tmp_path / "here" / f"{split}-00000-of-00001.parquet")
    before = load(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = load(str(tmp_path / "there"))
    assert before.fingerprint() == after.fingerprint()
    assert before.fingerprint() != before.with_holdout(3).fingerprint() == after.with_holdout(3).fingerprint()
