"""What a file is, by its first bytes and never by its name."""

import re
import struct

# Canon's CR2 and Phase One's IIQ begin as a TIFF does. Their second header is asked for whole: the
# pixels of a flat picture, which libtiff writes there, may be "IIII" or "MMMM" too.
_RAW_TIFF = rb"II\x2a\x00\x10\x00\x00\x00CR\x02|II\x2a\x00.{4}IIII.waR|MM\x00\x2a.{4}MMMMRaw"
# What is decoded, by Pillow's names. Nothing that starts other programs (EPS) or only looks like an
# image (HDF5, GRIB) stands here.
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"(?!" + _RAW_TIFF + rb")(II[\x2a\x2b]\x00|MM\x00[\x2a\x2b])",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "AVIF": rb"....ftypavi[fs]|....ftypmi[fa][1f].{4,20}avif",
    "HEIF": rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "JXL": rb"\x00\x00\x00\x0cJXL \r\n\x87\n|\xff\x0a",
    "JPEG2000": rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PPM": rb"P[1-6][\s#]+[\d#]",
    "QOI": rb"qoif",
    "ICO": rb"\x00\x00\x01\x00[\x01-\xff]\x00",
    "PCX": rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]",
    "SGI": rb"\x01\xda[\x00\x01][\x01\x02]",
    "SUN": rb"\x59\xa6\x6a\x95",
    "DDS": rb"DDS \x7c\x00\x00\x00",
}
_UNSUPPORTED_IMAGE = {
    "SVG": rb"\s*<(svg|[?!].*?<svg)[\s>]",
    "PSD": rb"8BPS",
    # and Canon's other two, Fujifilm's, Panasonic's, Olympus', Minolta's, Sigma's, ARRI's
    "camera raw": _RAW_TIFF + rb"|....ftypcrx |II\x1a\x00\x00\x00HEAPCCDR"
    rb"|FUJIFILMCCD-RAW|IIU\x00|IIR[OS]|MMOR|\x00MRM|FOVb|ARRI",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?R(ADIANCE|GBE)",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "XCF": rb"gimp xcf",
    # its head, or the first of its fields where the head was cut off
    "DICOM": rb".{128}DICM|\x02\x00\x00\x00UL\x04\x00|\x08\x00[\x05\x08\x16]\x00"
    rb"([CU][SI].{2}|.\x00{3})(ISO_IR|ORIGINAL|DERIVED|1\.2\.840)",
    "FITS": rb"SIMPLE  = +T",
}
# What makes of a kind something that is read here, in words for the row of such a file
_ADVICE = {
    "camera raw": "develop it to a 16-bit TIFF (darktable-cli, dcraw -T -6)",
    "DICOM": "convert it to a 16-bit PNG (DCMTK's dcm2img, GDCM)",
    "FITS": "convert it to a 16-bit TIFF (astropy and tifffile, Siril)",
}
_UNSUPPORTED = {
    "PDF": rb"%PDF",
    "video": rb"....ftyp|....moov|RIFF....AVI |\x1aE\xdf\xa3|FLV\x01|\x00\x00\x01[\xb3\xba]|OggS"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11",
}
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .gif .bmp .dib .avif .jp2 .j2k .jpx .ppm .pgm .pbm"
    " .pnm .qoi .ico .pcx .sgi .ras .dds .tga .svg .psd .heic .heif .hif .jxl .exr"
    " .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .dng .gpr .raf .orf .rw2 .rwl .pef .srw .mrw .x3f"
    " .3fr .fff .iiq .mos .mef .erf .dcr .kdc .dcm .fits".split()
)
HEAD = 512  # bytes that suffice for every function of this module


def kind_of(head: bytes) -> str | None:
    """The name of what starts with these bytes, such as "JPEG"; None where nothing is known.

    Formats without a magic number (TGA) are None too.
    """
    for known in (_MAGIC, _UNSUPPORTED_IMAGE, _UNSUPPORTED):
        for kind, magic in known.items():
            if re.match(magic, head[:HEAD], re.DOTALL):
                return kind
    return None


def size_of(kind: str | None, head: bytes) -> tuple[int, int] | None:
    """Width and height as the head of a file has them, for kinds that Pillow would not let us look
    at before it refuses them or takes memory for them; None for others."""
    if kind == "WEBP" and head[12:16] == b"VP8X":  # the canvas, which is made when it is opened
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    layout = {"PNG": (">LL", 16), "QOI": (">LL", 4), "BMP": ("<ll", 18)}.get(kind or "")
    is_old = kind == "BMP" and head[14:15] == b"\x0c"  # OS/2's, in 16 bits
    if layout is None or is_old or len(head) < layout[1] + 8:
        return None
    width, height = struct.unpack_from(layout[0], head, layout[1])
    return width, abs(height)  # a BMP from top to bottom has a negative one


def is_supported(kind: str) -> bool:
    """Whether codec.decode knows what to do with it."""
    return kind in _MAGIC


def unsupported(kind: str) -> str:
    """Words for a kind that cannot be decoded here, with the way out where there is one."""
    advice = _ADVICE.get(kind)
    return f"unsupported kind: {kind}" + (f": {advice}" if advice else "")


def looks_like_image(head: bytes) -> bool:
    """Whether the content is that of an image, one that cannot be decoded here included."""
    kind = kind_of(head)
    return kind in _MAGIC or kind in _UNSUPPORTED_IMAGE
