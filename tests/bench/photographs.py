"""Prepares large photographs for training: scaled down until their noise is gone, cut into parts.

    python -m tests.bench.photographs FOLDER --into DESTINATION [--side 1600] [--parts 2 2]

What a camera or JPEG left in a photograph lies in its finest detail; after scaling down it is as
clean as a training photograph should be. In parts, because every file is drawn from equally often,
and a large photograph should count for more.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

from denoise.storage import inputs, uris
from denoise.storage.found import LeftOut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--into", required=True, type=Path)
    parser.add_argument("--side", type=int, default=1600, help="the longer side at most, in pixels")
    parser.add_argument("--parts", type=int, nargs=2, default=(2, 2), help="columns and rows")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    made = 0
    for entry in inputs.entries(uris.absolute(given.folder), LeftOut()):
        with Image.open(entry.uri) as opened:
            photograph = ImageOps.exif_transpose(opened).convert("RGB")
        photograph.thumbnail((given.side, given.side), Image.Resampling.LANCZOS)
        stem = entry.path.replace("/", "-").rpartition(".")[0]
        for number, part in enumerate(parts_of(photograph, *given.parts)):
            part.save(given.into / f"{stem}-{number}.png", compress_level=1)
            made += 1
    print(f"{made} parts in {given.into}")


def parts_of(photograph: Image.Image, columns: int, rows: int) -> list[Image.Image]:
    """The cells of a grid, left to right, top to bottom."""
    width, height = photograph.size
    across = [width * column // columns for column in range(columns + 1)]
    down = [height * row // rows for row in range(rows + 1)]
    return [
        photograph.crop((across[column], down[row], across[column + 1], down[row + 1]))
        for row in range(rows)
        for column in range(columns)
    ]


if __name__ == "__main__":
    main()
