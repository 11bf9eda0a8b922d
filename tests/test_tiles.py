import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise.images.tiles import tiles

SIZES = st.integers(1, 150)
SIDES = st.integers(5, 200)
STRIDES = st.sampled_from([1, 2, 4, 8])


@settings(deadline=None)
@given(SIZES, SIZES, SIDES, st.integers(0, 60), STRIDES)
def test_every_pixel_is_kept_exactly_once(height, width, side, halo, stride):
    kept = np.zeros((height, width), int)
    for tile in tiles(height, width, side=side, halo=halo, stride=stride):
        box = tile.inner
        kept[box.top : box.bottom, box.left : box.right] += 1
    assert (kept == 1).all()


@settings(deadline=None)
@given(SIZES, SIZES, SIDES, st.integers(0, 60), STRIDES)
def test_the_halo_is_shown_on_every_side_and_ends_at_the_picture(height, width, side, halo, stride):
    for tile in tiles(height, width, side=side, halo=halo, stride=stride):
        inner, outer = tile.inner, tile.outer
        assert outer.top <= max(0, inner.top - halo)
        assert outer.left <= max(0, inner.left - halo)
        assert min(height, inner.bottom + halo) <= outer.bottom <= height
        assert min(width, inner.right + halo) <= outer.right <= width


@settings(deadline=None)
@given(SIZES, SIZES, SIDES, st.integers(0, 60), STRIDES)
def test_tiles_begin_on_the_stride_and_are_no_larger_than_asked(height, width, side, halo, stride):
    for tile in tiles(height, width, side=side, halo=halo, stride=stride):
        assert tile.outer.top % stride == tile.outer.left % stride == 0
        assert tile.inner.top % stride == tile.inner.left % stride == 0
        assert max(tile.inner.height, tile.inner.width) < side + stride
        for end, border in ((tile.outer.bottom, height), (tile.outer.right, width)):
            assert end % stride == 0 or end == border


def test_a_picture_no_larger_than_the_side_is_one_tile():
    (tile,) = tiles(321, 481, side=481, halo=91, stride=8)
    assert tile.inner == tile.outer
    assert (tile.inner.height, tile.inner.width) == (321, 481)


@pytest.mark.parametrize("width, count", [(576, 1), (577, 2), (1152, 2), (6000, 11)])
def test_there_are_as_few_tiles_as_the_side_allows_and_no_slivers(width: int, count: int):
    widths = [tile.inner.width for tile in tiles(8, width, side=576, halo=0, stride=8)]
    assert len(widths) == count
    assert max(widths) - min(widths) <= 8 * count
