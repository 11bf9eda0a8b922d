"""What a file says of its photograph beside the pixels, carried from one format to another."""

import re
from dataclasses import dataclass, replace

Chunks = tuple[tuple[bytes, bytes], ...]  # names and contents of a PNG file's chunks

LONGEST_XMP = 1 << 20  # bytes; a longer packet is left out
_TOO_LONG = f"XMP over {LONGEST_XMP >> 20} MiB left out"
_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)[2-8]")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is known of a picture; each format holds a part of it."""

    exif: bytes | None = None  # from the byte-order mark on
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None  # raw XML
    colour: Chunks = ()  # what a PNG file says of its colours instead of a profile
    texts: Chunks = ()  # of a PNG file, for another

    def filled(
        self, *, exif: bytes | None = None, icc: bytes | None = None, xmp: bytes | None = None
    ) -> "Metadata":
        """The same, with these where it has none: of several the first counts."""
        return replace(self, exif=self.exif or exif, icc=self.icc or icc, xmp=self.xmp or xmp)


NO_METADATA = Metadata()


def upright_xmp(xmp: bytes) -> bytes:
    """The same once the picture is turned: some programs read the orientation here."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def fitting_xmp(xmp: object) -> tuple[bytes | None, str | None]:
    """What a library calls XMP, if it can be carried along, and a note about it."""
    if not isinstance(xmp, bytes) or b"<" not in xmp:
        return None, None  # there is none, or nonsense
    if len(xmp) > LONGEST_XMP:
        return None, _TOO_LONG
    return xmp.rstrip(b"\x00"), None  # as TIFFs and some WebPs end
