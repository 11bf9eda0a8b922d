"""How a picture is saved: encoded for the table, as a file of the output folder, or both."""

import errno
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from denoise.errors import ImageError, WriteError, words_of
from denoise.images.codec import Picture, decode, encode, format_for, is_lossy, suffix_of
from denoise.output.discard import UNFINISHED
from denoise.output.names import file_of
from denoise.storage import files, uris
from denoise.verbs.bulk import BulkConfig

_NO_NAME = "its name cannot be a file's in the output folder"


@dataclass
class Saved:
    """A picture as it was saved."""

    image: dict[str, Any] | None  # the struct of the table's column, null if a file holds it
    file: str | None  # its file, relative to the output folder
    pixels: NDArray[Any]  # [H, W, C] as stored: other than the picture's if the format is lossy


def save(picture: Picture, path: str, config: BulkConfig, *, stem: str = "") -> Saved:
    """Encode a picture, and write its file if asked to; `stem` where another has its usual name.

    Raises ImageError where the format has to hold the picture and cannot, WriteError where nothing
    can be written.
    """
    kind = format_for(picture, config.format, metadata=not config.strip_metadata)
    if config.save == "none" and not is_lossy(kind, config.quality):
        return Saved(None, None, picture.pixels)
    encoded, stored = encode_as(kind, picture, config)
    image, file = None, None
    name = file_of(path, suffix_of(kind), keep_name=config.format == "same", stem=stem)
    if config.save in ("parquet", "both", "tar"):  # the shard packs it
        image = {"bytes": encoded, "path": name}
    if config.save in ("files", "both"):
        file = f"images/{name}"
        _write_file(config.output, file, encoded)
    return Saved(image, file, stored)


def encode_as(format: str, picture: Picture, config: BulkConfig) -> tuple[bytes, NDArray[Any]]:
    """The bytes of a picture in a format, and the pixels [H, W, C] that they hold."""
    encoded = encode(
        picture, format=format, quality=config.quality, metadata=not config.strip_metadata
    )
    if is_lossy(format, config.quality):
        return encoded, decode(encoded, max_pixels=config.max_pixels).pixels
    return encoded, picture.pixels


def waits_for_a_store(config: BulkConfig) -> bool:
    """Whether images are saved as files of a store, which takes its time."""
    return config.save in ("files", "both") and not uris.is_local(config.output)


def _write_file(output: str, name: str, encoded: bytes) -> None:
    """Write an image's file. A name that cannot be is the image's error; whatever else fails is
    the disk's or the store's, and ends the run."""
    if "\0" in name:
        raise ImageError(_NO_NAME)
    try:
        files.write_below(output, name, encoded, aside=uris.join(output, UNFINISHED))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ImageError("a folder of its file is a symbolic link") from error
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise ImageError(_NO_NAME) from error
        raise WriteError(f"cannot write images: {words_of(error)}") from error
