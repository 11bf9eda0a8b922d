"""What lies below a folder: in order, each folder once."""

from pathlib import Path

import pytest

from denoise.storage import listing


def test_a_listing_is_in_the_order_of_names_and_relative_to_its_root(tmp_path: Path):
    for name in ("b/2.png", "a/1.png", "a/z/0.png", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    files = [found for found in listing.listing(str(tmp_path)) if not found.is_folder]
    assert [found.path for found in files] == ["c.png", "a/1.png", "a/z/0.png", "b/2.png"]
    assert all(found.size == 5 and found.mark for found in files)


def test_a_folder_is_entered_once_though_links_lead_back(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    paths = [found.path for found in listing.listing(str(tmp_path)) if not found.is_folder]
    assert paths == ["a.png", "dangling.png"]


@pytest.mark.parametrize("siblings", [0, 14, 40])
def test_a_folder_with_two_names_goes_by_the_first_whatever_lies_beside_it(
    tmp_path: Path, siblings: int
):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "1.png").write_bytes(b"1")
    (tmp_path / "a").symlink_to("z")
    for number in range(siblings):
        (tmp_path / f"b{number}").mkdir()
    files = [found.path for found in listing.listing(str(tmp_path)) if not found.is_folder]
    assert files == ["a/1.png"]
