"""Photos as training has them: an image file decoded to 8 bits, or a pair, or why there is none.

Shapes: pixels [H, W, C] uint8, C 3, or 6 where a clean picture brings its own noisy one along
(clean, then noisy).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from denoise.errors import FAILURES, ImageError, why
from denoise.images.codec import decode, to_floats, to_pixels
from denoise.storage.inputs import Entry, source_of

VALIDATION_SIDE = 256  # photos are validated on their middle

PHOTO_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("pixels", pa.large_binary()),  # null where it did not decode
        ("padded", pa.bool_()),
        ("sigma", pa.float64()),  # of the noise that a pair brings along, null where not known
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Photo:
    """A decoded picture: a view into a table that processes share."""

    path: str
    pixels: NDArray[np.uint8]  # [H, W, C]


def photo_row(entry: Entry, patch: int, *, middle: bool = False) -> dict[str, Any]:
    """A row of PHOTO_SCHEMA: the entry decoded, or only its middle, or what was wrong with it."""
    row = dict.fromkeys(PHOTO_SCHEMA.names) | {"path": entry.path, "padded": False}
    try:
        pixels, sigma = _pixels(entry)
    except FAILURES as error:
        return row | {"error": why(error)}
    height, width, _ = pixels.shape
    more = [(0, max(0, patch - height)), (0, max(0, patch - width)), (0, 0)]
    is_small = min(height, width) < patch
    if is_small:
        pixels = np.pad(pixels, more, "reflect")
    if middle:
        pixels = middle_of(pixels)
    flat = np.ascontiguousarray(pixels).tobytes()
    return row | {"shape": pixels.shape, "pixels": flat, "padded": is_small, "sigma": sigma}


def middle_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, C] -> what validation looks at, as a view."""
    top, left = (max(0, (side - VALIDATION_SIDE) // 2) for side in pixels.shape[:2])
    return pixels[top : top + VALIDATION_SIDE, left : left + VALIDATION_SIDE]


def photos_in(table: pa.Table) -> list[Photo]:
    """The photos of a table, without a copy."""
    photos = []
    for batch in table.to_batches():
        paths, shapes = batch.column("path").to_pylist(), batch.column("shape").to_pylist()
        for row, pixels in enumerate(batch.column("pixels")):
            if pixels.is_valid:
                flat = np.frombuffer(pixels.as_buffer(), np.uint8)
                photos.append(Photo(paths[row], flat.reshape(shapes[row])))
    return photos


def _pixels(entry: Entry) -> tuple[NDArray[np.uint8], float | None]:
    """[H, W, 3] of an image, or [H, W, 6] of a clean one and its noisy one, with the sigma between.

    Raises ImageError.
    """
    source = source_of(entry)
    if source.error:
        raise ImageError(source.error)
    if source.is_noisy and source.clean is None:
        raise ImageError("noisy, and its table brings no clean image along")
    noisy = _rgb(source.encoded)
    if source.clean is None:
        return noisy, None
    clean = _rgb(source.clean)
    if clean.shape != noisy.shape:
        raise ImageError("the clean and the noisy image differ in size")
    return np.concatenate([clean, noisy], axis=2), source.sigma


def _rgb(encoded: bytes) -> NDArray[np.uint8]:
    pixels = decode(encoded).pixels
    eight = pixels if pixels.dtype == np.uint8 else to_pixels(to_floats(pixels), 8)
    return np.broadcast_to(eight, (*eight.shape[:2], 3)).astype(np.uint8, copy=False)
