"""Record batches read one after the other: the rows of what is too large to be held."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa

from denoise.errors import ImageError

Open = Callable[[ExitStack], Iterator[pa.RecordBatch]]  # what it opens, the stack closes


@dataclass
class _Pieces:
    """Something that is read piece by piece, from its first row on."""

    key: Hashable
    open_file: ExitStack
    following: Iterator[pa.RecordBatch]
    first: int = 0  # the row that the piece at hand begins with
    piece: pa.Table | None = None


at_hand: list[_Pieces] = []  # the one that was asked for last, if any


def row(key: Hashable, number: int, open_rows: Open) -> pa.Table:
    """One row of what a key stands for, which `open_rows` reads from the beginning.

    Rows that follow each other are read once. For one before the piece at hand all is
    read from the beginning. One thread at a time may ask. Raises ImageError where the row is
    not there.
    """
    pieces = at_hand.pop() if at_hand else None
    if pieces is None or pieces.key != key or number < pieces.first:
        if pieces is not None:
            pieces.open_file.close()
        pieces = _Pieces(key, stack := ExitStack(), iter(()))
        pieces.following = open_rows(stack)
    while pieces.piece is None or number >= pieces.first + pieces.piece.num_rows:
        pieces.first += pieces.piece.num_rows if pieces.piece is not None else 0
        try:
            pieces.piece = pa.Table.from_batches([next(pieces.following)])
        except (StopIteration, pa.ArrowException) as error:
            pieces.open_file.close()
            raise ImageError("its table cannot be read") from error
    at_hand.append(pieces)
    return pieces.piece.slice(number - pieces.first, 1)
