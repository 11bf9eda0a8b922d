"""WebP files: written with gray marked as such, as they know colours only."""

from io import BytesIO
from typing import Any

from PIL import Image

from denoise.images.metadata import Metadata
from denoise.images.planes import Planes, squeeze

# Marks a picture of three equal planes as one of gray: in the words of TIFF, 0 is black
GRAY_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" rdf:about=""'
    b' tiff:PhotometricInterpretation="1"/></rdf:RDF></x:xmpmeta>'
)


def encode_webp(planes: Planes, metadata: Metadata, quality: int | None) -> bytes:
    """A WebP file, without loss where no quality is given; gray has the mark instead of its XMP."""
    is_gray = planes.shape[2] < 3
    lossless = is_gray or quality is None  # with loss, equal planes come back unequal
    options: dict[str, Any] = {"lossless": lossless, "quality": 0 if lossless else quality}
    about = {
        "exif": metadata.exif,
        "icc_profile": metadata.icc,
        "xmp": GRAY_XMP if is_gray else metadata.xmp,
    }
    options |= {name: value for name, value in about.items() if value}
    out = BytesIO()
    # exact: keeps colours below transparent pixels
    Image.fromarray(squeeze(planes)).save(out, "WEBP", method=0, exact=True, **options)
    return out.getvalue()
