"""XMP packets as raw bytes: what a file says of its photograph in XML, carried along as it is."""

import re

LONGEST = 1 << 20  # bytes; a longer one is left out
LONGEST_IN_JPEG = 65_000  # which holds it in one segment
TOO_LONG = f"XMP over {LONGEST >> 20} MiB left out"
_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)[2-8]")


def upright(xmp: bytes) -> bytes:
    """The same once the picture is turned: some programs read the orientation here."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def fitting(xmp: object) -> tuple[bytes | None, str | None]:
    """What a library calls XMP, if it can be carried along, and a note about it."""
    if not isinstance(xmp, bytes) or b"<" not in xmp:
        return None, None  # there is none, or nonsense
    if len(xmp) > LONGEST:
        return None, TOO_LONG
    return xmp.rstrip(b"\x00"), None  # as TIFFs and some WebPs end
