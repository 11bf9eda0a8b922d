"""AVIF files: bounded by their boxes before they are decoded, and written by Pillow."""

from io import BytesIO

from PIL import Image

from denoise.images.boxes import meta_of, without_bombs
from denoise.images.metadata import Metadata
from denoise.images.planes import Planes, check_size, squeeze

_QUALITY = 95  # 45 dB on photographs: what denoising leaves is a good deal coarser


def check_avif(encoded: bytes, max_pixels: int) -> bytes:
    """The file without EXIF that claims too much. Raises ImageError for one of too many pixels."""
    meta = meta_of(encoded)
    for width, height in meta.sizes:
        check_size(width, height, max_pixels)
    return without_bombs(encoded, meta)


def bits_of_avif(encoded: bytes) -> int:
    """Bits a channel."""
    flags = _flags(encoded)
    return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x20)  # high_bitdepth, twelve_bit


def is_monochrome(encoded: bytes) -> bool:
    """Whether it has no colours, though it is decoded to three planes."""
    return bool(_flags(encoded) & 0x10)


def _flags(encoded: bytes) -> int:
    start = encoded.find(b"av1C")
    return encoded[start + 6] if start > 0 else 0


def encode_avif(planes: Planes, metadata: Metadata, quality: int | None) -> bytes:
    """An AVIF file, of 8 bits and with loss; it has no field for dpi.

    One thread, so that its bytes do not depend on the machine, and the fastest of libaom's speeds:
    six times as fast as Pillow's usual one, and 0.3 dB below it.
    """
    out = BytesIO()
    Image.fromarray(squeeze(planes)).save(
        out,
        "AVIF",
        quality=quality or _QUALITY,
        speed=10,
        max_threads=1,
        subsampling="4:0:0" if planes.shape[2] < 3 else "4:4:4",
        icc_profile=metadata.icc,
        xmp=metadata.xmp,
        **({"exif": _Exif(metadata.exif)} if metadata.exif else {}),
    )
    return out.getvalue()


class _Exif(Image.Exif):
    """EXIF as it is: Pillow writes it anew, and cannot where it is odd."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def __bool__(self) -> bool:
        return True

    def tobytes(self, offset: int = 8) -> bytes:
        return self._raw
