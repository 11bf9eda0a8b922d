"""Pictures of pictures: what the report and the demo show of an image, side by side.

Pixels come as [H, W, C] integers or floats on 0..1 (C 1 or 3); panels are [H, W, C] uint8 of one
size, so sixteen bits are shown as eight.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from denoise.images.codec import Picture, encode, to_pixels
from denoise.images.planes import squeeze
from denoise.images.tiles import middle_of

Pixels = NDArray[Any]
Panels = dict[str, NDArray[np.uint8]]
Labelled = tuple[str, Pixels]

DIFFERENCE_GAIN = 4  # differences are small; shown as they are, they would be invisible
_WHOLE_SIDE = 480  # pixels of the longer side of a panel that shows the whole image
_CROP_SIDE = 176  # pixels of a panel that shows every pixel
_WHOLE_BYTES = 220_000  # of all panels of one image: ten images stay far below 10 MB
_SHEET_SIDE = 320
_MARGIN, _LINE = 8, 20  # pixels of a contact sheet


@dataclass(frozen=True)
class View:
    """One image, drawn: each panel whole (scaled down) and a crop of it, as `data:` URIs."""

    path: str
    height: int
    width: int
    psnr_noisy: float | None
    psnr: float | None
    removed: float | None  # root mean square of what was removed, on 0..1
    noise_before: float | None  # estimated sigma, on 0..1
    noise_after: float | None
    wholes: dict[str, str]
    crops: dict[str, str]
    crop: tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class SheetRow:
    """One line of a contact sheet."""

    path: str
    clean: Pixels
    noisy: Pixels
    denoised: Pixels
    psnr_noisy: float
    psnr: float


def panels_of(clean: Pixels | None, noisy: Pixels | None, denoised: Pixels | None) -> Panels:
    """What is shown of an image: clean | noisy | denoised | difference, as far as they are known.

    The difference is denoised (else noisy) less clean. Without a clean image nobody knows how noisy
    the other is: input | denoised | removed.
    """
    before = "input" if clean is None else "noisy"
    known = {"clean": clean, before: noisy, "denoised": denoised}
    panels = {name: _eight_bits(pixels) for name, pixels in known.items() if pixels is not None}
    if "clean" in panels and len(panels) > 1:
        result = panels["denoised"] if "denoised" in panels else panels["noisy"]
        panels["difference"] = _difference(result, panels["clean"])
    elif "input" in panels and "denoised" in panels:
        panels["removed"] = _difference(panels["input"], panels["denoised"])
    return panels


def view_of(about: Mapping[str, Any], panels: Panels) -> View:
    """Draws an image; `about` is its row of the table."""
    height, width = next(iter(panels.values())).shape[:2]
    left, top, right, bottom = _crop_box(panels, height, width)
    crops = {
        name: _data_uri(encode(Picture(panel[top:bottom, left:right])))
        for name, panel in panels.items()
    }
    return View(
        path=about["path"],
        height=height,
        width=width,
        psnr_noisy=about.get("psnr_noisy"),
        psnr=about.get("psnr"),
        removed=about.get("removed"),
        noise_before=about.get("noise_before"),
        noise_after=about.get("noise_after"),
        wholes=_wholes(panels),
        crops=crops,
        crop=(left, top, right - left, bottom - top),
    )


def contact_sheet(rows: Sequence[SheetRow], *, side: int = _SHEET_SIDE) -> NDArray[np.uint8]:
    """[H, W, 3]: one line an image: clean, noisy, denoised, labelled with their PSNR."""
    return sheet_of([_label(row) for row in rows], side=side)


def _label(row: SheetRow) -> list[Labelled]:
    return [
        (row.path, row.clean),
        (f"noisy {row.psnr_noisy:.2f} dB", row.noisy),
        (f"denoised {row.psnr:.2f} dB ({row.psnr - row.psnr_noisy:+.2f})", row.denoised),
    ]


def sheet_of(rows: Sequence[Sequence[Labelled]], *, side: int = _SHEET_SIDE) -> NDArray[np.uint8]:
    """[H, W, 3]: lines of labelled pixels.

    The middle of each is shown pixel for pixel: made smaller, it would lose its noise.
    """
    columns = max((len(row) for row in rows), default=1)
    heights = [min(side, row[0][1].shape[0]) + _LINE + _MARGIN for row in rows]
    size = (columns * (side + _MARGIN) + _MARGIN, sum(heights) + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (label, pixels) in enumerate(row):
            left = _MARGIN + column * (side + _MARGIN)
            pen.text((left, top), _fit(label, side, font), fill="black", font=font)
            middle = squeeze(_eight_bits(middle_of(pixels, side)))
            sheet.paste(Image.fromarray(middle), (left, top + _LINE))
        top += height
    return np.asarray(sheet)


def _fit(label: str, width: int, font: Any) -> str:
    """The label, or its end, where the figures stand, as far as it fits into a width."""
    label = label[-width:]  # no letter takes less than a pixel
    if font.getlength(label) <= width:
        return label
    cuts = range(1, len(label) + 1)
    return next(end for n in cuts if font.getlength(end := f"...{label[n:]}") <= width)


def _eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype == np.float32:
        return to_pixels(pixels, 8)
    return pixels.astype(np.uint8, copy=False)


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """a - b, enlarged, about a middle gray."""
    step = a.astype(np.int16) - b
    return np.clip(128 + DIFFERENCE_GAIN * step, 0, 255).astype(np.uint8)


def _crop_box(panels: Panels, height: int, width: int) -> tuple[int, int, int, int]:
    """The square in which most is wrong; the middle where nobody knows."""
    side_h, side_w = min(_CROP_SIDE, height), min(_CROP_SIDE, width)
    rows, columns = height // side_h, width // side_w
    if "difference" not in panels:
        row, column = rows // 2, columns // 2
    else:
        inner = panels["difference"][: rows * side_h, : columns * side_w]
        wrong = np.abs(inner.astype(np.int16) - 128)
        blocks = wrong.reshape(rows, side_h, columns, side_w, -1).mean((1, 3, 4))
        row, column = divmod(int(blocks.argmax()), columns)
    top, left = row * side_h, column * side_w
    return left, top, left + side_w, top + side_h


def _wholes(panels: Panels) -> dict[str, str]:
    """The panels as JPEG, made smaller until they fit: a report stays under 10 MB, always."""
    side = float(_WHOLE_SIDE)
    while True:
        encoded = {}
        for name, panel in panels.items():
            whole = Image.fromarray(squeeze(panel))
            whole.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            encoded[name] = _jpeg(whole)
        if sum(map(len, encoded.values())) <= _WHOLE_BYTES or side < 64:
            return {name: _data_uri(content) for name, content in encoded.items()}
        side *= 0.8


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
