"""Where the images of a split are kept until somebody asks for one: as pixels, in a Parquet column, in files."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from alexnet.data.images import ImageError, decoding

if TYPE_CHECKING:
    import pyarrow as pa


class Store(Protocol):
    """Where the images of a split are kept; rows are numbered from 0."""

    def name(self, row: int) -> str: ...

    def decoding(self, row: int) -> AbstractContextManager[Image.Image]: ...

    def encoded(self, row: int) -> bytes: ...

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Of `rows`, without reading an image: the bytes that `encoded` will give, int64 [N], and the files' names."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Decoded images: one uint8 array [N, H, W, 3]."""

    array: np.ndarray
    title: str

    def name(self, row: int) -> str:
        return f"{self.title} row {row}"

    def decoding(self, row: int) -> AbstractContextManager[Image.Image]:
        return nullcontext(Image.fromarray(self.array[row]))

    def encoded(self, row: int) -> bytes:
        return bytes(self.array[row].tobytes())

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        return np.full(len(rows), self.array[0].nbytes), b""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Image files held in an Arrow column of structs {bytes, path}, as Parquet on the Hugging Face hub has them.

    `mapped` is the datasets library's table on disk, where the column is the memory-mapped first one of that: another
    process is then sent the table, which travels as the names of its files, in the column's place.

    `starts` are the first rows of the files that the column was read from, and `titles` the names of those files.
    A row without bytes points to a file, which must lie in one of `folders` (without symbolic links): whoever made the
    data set may not pick any image of this disk. Relative paths start from the first.
    """

    column: "pa.ChunkedArray"
    starts: tuple[int, ...]
    titles: tuple[str, ...]
    folders: tuple[str, ...] = ()
    mapped: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "column" or self.mapped is None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["mapped"] is not None:
            state = {**state, "column": state["mapped"].with_format("arrow")[:].column(0)}
        self.__dict__.update(state)

    def name(self, row: int) -> str:
        return self._name(row, self._value(row))

    def decoding(self, row: int) -> AbstractContextManager[Image.Image]:
        value = self._value(row)
        return decoding(self._source(row, value), self._name(row, value))

    def encoded(self, row: int) -> bytes:
        source = self._source(row, self._value(row))
        return source if isinstance(source, bytes) else Path(source).read_bytes()

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        import pyarrow as pa
        import pyarrow.compute as pc

        contents = pc.struct_field(self.column, [self.column.type.get_field_index("bytes")])
        lengths = pc.fill_null(pc.binary_length(contents.cast(pa.large_binary())), -1).to_numpy().astype(np.int64)[rows]
        for place in np.flatnonzero(lengths < 0):  # a row that points to a file
            row = int(rows[place])
            source = self._source(row, self._value(row))
            assert isinstance(source, str)
            lengths[place] = Path(source).stat().st_size
        return lengths, b""

    def _source(self, row: int, value: dict[str, Any]) -> bytes | str:
        content: bytes | None = value.get("bytes")
        if content is not None:
            return content
        path: str | None = value.get("path")
        if path is None:
            raise ImageError(f"{self._name(row, value)}: the row holds no image")
        for folder in self.folders:
            file = os.path.realpath(Path(folder, path))
            if Path(file).is_relative_to(folder):
                return file
        allowed = " or ".join(map(repr, self.folders)) or "the table"
        raise ImageError(f"{self._name(row, value)}: the row points to a file outside of {allowed}")

    def _name(self, row: int, value: dict[str, Any]) -> str:
        part = bisect_right(self.starts, row) - 1
        path = value.get("path")
        return f"{self.titles[part]} row {row - self.starts[part]}" + (f" ({path})" if path else "")

    def _value(self, row: int) -> dict[str, Any]:
        return self.column[row].as_py() or {}


class Paths(Sequence[str]):
    """Paths, kept as one piece of memory.

    A list of a million strings is a million objects, and a forked process that counts its references to them soon holds
    a copy of each.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        text, ends = bytearray(), array("q")
        for path in paths:
            text += os.fsencode(path)
            ends.append(len(text))
        self.text, self.ends = bytes(text), np.asarray(ends, np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:  # of the two that a Sequence has, the one that takes a number
        start = self.ends[row - 1] if row else 0
        return os.fsdecode(self.text[start : self.ends[row]])


@dataclass(frozen=True, eq=False)
class Files:
    """Image files on disk, all below `folder`."""

    paths: Sequence[str]
    folder: str = ""

    def name(self, row: int) -> str:
        return self.paths[row]

    def decoding(self, row: int) -> AbstractContextManager[Image.Image]:
        return decoding(self.paths[row])

    def encoded(self, row: int) -> bytes:
        return Path(self.paths[row]).read_bytes()

    def listing(self, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        lengths, names = np.empty(len(rows), np.int64), bytearray()
        for place, row in enumerate(rows):
            path = self.paths[row]
            lengths[place] = os.stat(path).st_size  # noqa: PTH116 (a million of them, and a Path takes longer)
            names += os.fsencode(path.removeprefix(self.folder).replace(os.sep, "/")) + b"\n"
        return lengths, bytes(names[:-1])
