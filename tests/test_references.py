"""Where the clean image of a path lies."""

import os
from pathlib import Path

import pytest

from denoise.errors import ImageError
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.storage.references import reference_of
from tests.conftest import encoded, photo


def test_a_reference_is_found_by_path_or_by_stem(photos: Path):
    assert reference_of(str(photos), "more/wide.jpg").uri == str(photos / "more" / "wide.jpg")
    assert reference_of(str(photos), "more/wide.png").uri == str(photos / "more" / "wide.jpg")
    (photos / "more" / "wide.xmp").write_text("a sidecar")
    assert reference_of(str(photos), "more/wide.png").uri == str(photos / "more" / "wide.jpg")
    with pytest.raises(ImageError, match="no references of that name"):
        reference_of(str(photos), "more/other.png")


def test_a_reference_is_found_though_its_name_is_no_valid_text(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(encoded(photo()))
    (path,) = (entry.path for entry in entries(str(tmp_path), LeftOut()))
    assert (
        reference_of(str(tmp_path), path).uri == reference_of(str(tmp_path), path[:-4] + ".jpg").uri
    )
    assert reference_of(str(tmp_path), path).uri == str(tmp_path / name)


def test_a_reference_may_be_one_image(photos: Path):
    assert reference_of(str(photos / "0.png"), "noisy.png").uri == str(photos / "0.png")
    assert reference_of(str(photos / "0.png"), "0.png").uri == str(photos / "0.png")
    (photos / "folder.png").mkdir()
    with pytest.raises(ImageError, match="no references of that name"):
        reference_of(str(photos / "folder.png"), "noisy.png")
