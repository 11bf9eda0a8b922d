"""Every kind of file and what came back: python -m tests.bench.kinds"""

from denoise.errors import ImageError
from denoise.images.codec import decode, encode, format_for
from tests import pictures


def main() -> None:
    for name, encoded in {**pictures.good(), **pictures.bad()}.items():
        print(f"{name:34}{_outcome(encoded)}")


def _outcome(encoded: bytes) -> str:
    try:
        picture = decode(encoded)
    except ImageError as error:
        return f"error: {error}"
    height, width, channels = picture.pixels.shape
    form = format_for(picture, "same")
    again = decode(encode(picture, format=form))
    kept = (again.pixels == picture.pixels).all() and (again.alpha is None) == (
        picture.alpha is None
    )
    words = [
        f"{width}x{height}",
        "gray" if channels == 1 else "RGB",
        f"{picture.bit_depth} bits",
        "alpha" if picture.alpha is not None else "",
        "EXIF" if picture.metadata.exif else "",
        "profile" if picture.metadata.icc else "",
        f"{picture.metadata.dpi[0]:.0f} dpi" if picture.metadata.dpi else "",
        picture.note or "",
    ]
    loss = "" if kept else " (lossy)"
    return f"{picture.format}: {', '.join(filter(None, words))}; same -> {form}{loss}"


if __name__ == "__main__":
    main()
