from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qat.data.images.decode import decode, find_corrupt
from qat.data.images.folder import FileTable
from qat.errors import DataError
from tests.data.samples import encode, make_image


def _table(root: Path, contents: list[bytes]) -> FileTable:
    files = tuple(root / f"{index}.jpg" for index in range(len(contents)))
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return FileTable(root=root, files=files, targets=np.zeros(len(files), dtype=np.int64))


def _nan_image() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def test_find_corrupt_finds_what_decode_refuses(tmp_path: Path) -> None:
    jpeg, png = encode(make_image(64, 64), "JPEG"), encode(make_image(64, 64))
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    contents = [jpeg, b"", b"<html>404</html>", jpeg[: len(jpeg) // 2], png, png[:-200], bytes(broken), jpeg[:20]]
    table = _table(tmp_path, contents)
    found = find_corrupt(table, np.arange(len(contents), dtype=np.int64))
    assert sorted(found) == [1, 2, 3, 5, 6, 7]
    for index in range(len(contents)):
        if index in found:
            with pytest.raises(DataError, match=rf"{index}\.jpg cannot be decoded"):
                decode(table, index, 3)
        else:
            assert decode(table, index, 3).size == (64, 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_decode_gives_the_wanted_channels(channels: int, tmp_path: Path) -> None:
    table = _table(tmp_path, [encode(make_image()), encode(make_image().convert("L")), encode(make_image().quantize())])
    assert {len(decode(table, index, channels).getbands()) for index in range(3)} == {channels}


def test_find_corrupt_refuses_nan_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.jpg holds NaN"):
        find_corrupt(_table(tmp_path, [_nan_image()]), np.array([0]))
