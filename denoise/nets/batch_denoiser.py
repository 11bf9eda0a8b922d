"""A denoiser for batches of a table, as the function of a data pipeline of one's own.

Batches are dicts of numpy columns, or Arrow tables. Pixels are [H, W, C].
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from denoise.errors import FAILURES, ImageError, SettingsError, why
from denoise.images.codec import (
    FORMATS,
    Picture,
    decode,
    encode,
    format_for,
    is_lossy,
    to_floats,
)
from denoise.images.metrics import mse, psnr
from denoise.nets import Asked
from denoise.nets.denoiser import Denoiser
from denoise.nets.picture_tiles import Array

_Batch = TypeVar("_Batch", bound="Mapping[str, Any] | pa.Table")


@dataclass
class _Row:
    """One image on its way through a batch."""

    given: Any  # bytes, a struct of bytes and path, or an array
    clean: Any = None  # the reference, in any of these forms
    picture: Picture | None = None  # None where an array is given
    pixels: Array | None = None
    made: Any = None
    mse: float | None = None
    error: str | None = None


class BatchDenoiser:
    """Denoises one column of batches: give the class itself to Ray Data, which makes one an actor.

        denoised = dataset.map_batches(
            BatchDenoiser,
            fn_constructor_kwargs={"column": "image", "reference": "clean"},
            compute=ray.data.ActorPoolStrategy(size=4),
            num_gpus=1,  # leave it out on CPUs
            batch_size=16,
        )

    The column holds encoded images (bytes, or structs of bytes and path as Hugging Face has them)
    or arrays, [H, W] or [H, W, C] of uint8, uint16 or float32 0..1. The result is of the same kind
    and stands in the column `output`, if not given in the same one. With a `reference` column the
    columns `mse` and `psnr` compare what was made with it, on the scale 0..1.

    An image that fails is no exception but a text in the column `error`, null where all is well.
    Its result is null where images are encoded; an array, of which a column can lack none, comes
    back as it was. A row that comes with an `error` keeps it, and is not tried. Without Ray it is
    called with a dict of columns or with an Arrow table, and returns the same.

    `model`, `strength` and `precision` are those of `Denoiser.load`, `format` one of png,
    webp, jpeg, tiff and same. `threads` decode, encode and, on a CPU, compute; if not given, as
    many as Ray gives an actor CPUs. Raises SettingsError, when it is made, for what is none of
    these, and, when called, for a column that is not there.
    """

    def __init__(
        self,
        *,
        column: str = "image",
        output: str | None = None,
        reference: str | None = None,
        model: str = "photo",
        strength: float = 1.0,
        precision: Asked = "auto",
        format: str = "png",
        threads: int | None = None,
    ) -> None:
        if format not in (*FORMATS, "same"):
            known = ", ".join((*FORMATS, "same"))
            raise SettingsError(f"format must be one of {known}, got {format}")
        threads = torch.get_num_threads() if threads is None else threads
        if threads < 1:
            raise SettingsError(f"threads must be at least 1, got {threads}")
        self._column, self._output = column, output or column
        self._reference, self._format = reference, format
        self._denoiser = Denoiser.load(
            model, strength=strength, precision=precision, threads=threads
        )
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self, batch: _Batch) -> _Batch:
        """The batch with the denoised images and what was measured."""
        rows = [
            _Row(given, clean, error=error)
            for given, clean, error in zip(
                self._values(batch, self._column),
                self._values(batch, self._reference),
                self._values(batch, "error" if "error" in _names(batch) else None),
                strict=True,
            )
        ]
        self._each(self._decode, rows)
        self._denoise([row for row in rows if row.pixels is not None])
        self._each(self._finish, rows)
        return self._with_results(batch, rows)

    def _values(self, batch: Mapping[str, Any] | pa.Table, column: str | None) -> Sequence[Any]:
        names = _names(batch)
        if column is None:
            return [None] * (len(batch[names[0]]) if names else 0)
        if column not in names:
            raise SettingsError(f"no column `{column}` among {sorted(names)}")
        if not isinstance(batch, pa.Table):
            return list(batch[column])
        kind = batch.schema.field(column).type
        if isinstance(kind, pa.BaseExtensionType):
            raise SettingsError(
                f"column `{column}` holds {kind}: arrays come in batches of batch_format='numpy'"
            )
        return list(batch.column(column).to_pylist())

    def _each(self, step: Callable[[_Row], None], rows: list[_Row]) -> None:
        """Do a step with each row that has not failed; what fails now is its error."""

        def run(row: _Row) -> None:
            try:
                step(row)
            except FAILURES as error:
                row.error, row.pixels, row.made = why(error), None, None

        list(self._pool.map(run, [row for row in rows if row.error is None]))

    def _decode(self, row: _Row) -> None:
        row.picture, row.pixels = self._pixels_of(row.given)

    def _pixels_of(self, given: Any) -> tuple[Picture | None, Array]:
        """The picture, if it is encoded, and its pixels. Raises ImageError."""
        if isinstance(given, Mapping):
            given = given.get("bytes")
        if given is None:
            raise ImageError("the row holds no image")
        if isinstance(given, bytes):
            picture = decode(given)
            return picture, picture.pixels
        if isinstance(given, np.ndarray):
            return None, given
        raise ImageError(f"the row holds {type(given).__name__}, no image")

    def _denoise(self, rows: list[_Row]) -> None:
        """Denoise together; where one does not fit, or is no picture, each by itself."""
        try:
            made = self._denoiser.denoise([row.pixels for row in rows if row.pixels is not None])
        except (ValueError, MemoryError) as error:
            if len(rows) == 1:
                rows[0].error, rows[0].pixels = why(error), None
                return
            for row in rows:
                self._denoise([row])
            return
        for row, denoised in zip(rows, made, strict=True):
            row.made = denoised

    def _finish(self, row: _Row) -> None:
        """Encode what was made, and measure it."""
        stored, picture = row.made, row.picture
        if picture is not None:
            kind = format_for(picture, self._format)
            row.made = encode(replace(picture, pixels=stored), format=kind)
            if is_lossy(kind, None):
                stored = decode(row.made).pixels
        if self._reference is not None:
            row.mse = _error_between(stored, self._clean(row))
        if isinstance(row.given, Mapping):
            row.made = dict(row.given) | {"bytes": row.made}

    def _clean(self, row: _Row) -> Array:
        try:
            return self._pixels_of(row.clean)[1]
        except ImageError as error:
            raise ImageError(f"its reference: {error}") from error

    def _with_results(self, batch: _Batch, rows: list[_Row]) -> _Batch:
        results: dict[str, tuple[pa.DataType, list[Any]]] = {
            "error": (pa.string(), [row.error for row in rows])
        }
        if self._reference is not None:
            errors = [row.mse for row in rows]
            results["mse"] = pa.float64(), errors
            results["psnr"] = pa.float64(), [None if one is None else psnr(one) for one in errors]
        made = [row.given if _is_array(row.given) and row.error else row.made for row in rows]
        if isinstance(batch, pa.Table):
            kind = batch.schema.field(self._column).type
            return _table_with(batch, {self._output: (kind, made), **results})
        columns = {name: np.array(values, _NUMPY[kind]) for name, (kind, values) in results.items()}
        column = _stack(made, batch[self._column])
        return {**batch, self._output: column, **columns}  # type: ignore[return-value]


_NUMPY = {pa.string(): object, pa.float64(): np.float64}  # None becomes NaN in the latter


def _names(batch: Mapping[str, Any] | pa.Table) -> list[str]:
    return list(batch.column_names if isinstance(batch, pa.Table) else batch)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _stack(values: list[Any], given: Any) -> Any:
    """A column of values: one array [N, ...] where such a one was given."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return np.stack(values) if values else given
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _table_with(table: pa.Table, columns: Mapping[str, tuple[pa.DataType, list[Any]]]) -> pa.Table:
    for name, (kind, values) in columns.items():
        column = pa.array(values, kind)
        index = table.schema.get_field_index(name)
        if index < 0:
            table = table.append_column(name, column)
        else:
            table = table.set_column(index, name, column)
    return table


def _error_between(made: Array, clean: Array) -> float:
    """The MSE of the colours on the scale 0..1. Raises ImageError where the two cannot be
    compared."""
    made, clean = _colours(made), _colours(clean)
    if made.shape != clean.shape:
        raise ImageError(f"its reference is {list(clean.shape)}, and it is {list(made.shape)}")
    if made.dtype == clean.dtype:
        return mse(made, clean)
    if np.float32 not in (made.dtype, clean.dtype):
        raise ImageError("its reference has another bit depth")
    one, other = (x if x.dtype == np.float32 else to_floats(x) for x in (made, clean))
    return mse(one, other)


def _colours(picture: Array) -> Array:
    """[H, W] or [H, W, C] -> [H, W, 1 or 3]: without alpha."""
    planes = picture.reshape(*picture.shape[:2], -1)
    return planes[..., : planes.shape[2] - 1 + planes.shape[2] % 2]
