"""How quickly the report reads a table: rows a second, and the memory that it takes.

python -m tests.bench.report [--rows 1000000] [--shard 1000] [--folder DIR]

The table is made (no image in it is real), in part files and row groups as a job writes them. The
folder is kept where it is given, and used again.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from denoise.cores import cores
from denoise.output import tables
from denoise.verbs.report import ReportConfig, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard", type=int, default=1_000)
    parser.add_argument("--folder")
    asked = parser.parse_args()
    with TemporaryDirectory() as passing:
        folder = Path(asked.folder or passing)
        if not (folder / "_run.json").exists():
            make_table(folder, asked.rows, asked.shard)
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        summary = report(ReportConfig(output=str(folder)))
        seconds = time.perf_counter() - start
        grown = psutil.Process().memory_info().rss - before
        print(
            f"{summary['images']:,} rows in {seconds:.1f} s: {summary['images'] / seconds:,.0f} "
            f"rows/s, {grown / summary['images']:.0f} bytes a row, {cores()} cores"
        )


def make_table(folder: Path, rows: int, shard: int) -> None:
    """A table of `infer`, three images in a thousand failed, in folders of 5,000."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for number, first in enumerate(range(0, rows, shard)):
        part = _part(range(first, min(first + shard, rows)), rng)
        footer = {"started": number, "ended": number + 1.5, "seconds": {"network": 1.0}}
        with pq.ParquetWriter(tables.part_uri(str(folder), number), part.schema) as file:
            file.write_table(part, row_group_size=64)
            file.add_key_value_metadata({"denoise": json.dumps(footer)})
    run = {"verb": "infer", "settings": {"model": "made@0", "images": "made"}, "versions": {}}
    (folder / "_run.json").write_text(json.dumps(run))


def _part(numbers: range, rng: np.random.Generator) -> pa.Table:
    count = len(numbers)
    failed = rng.random(count) < 0.003

    def good(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=failed)

    columns = {
        "path": pa.array([f"folder{n // 5000:05d}/{n:09d}.jpg" for n in numbers]),
        "height": good(rng.integers(300, 3000, count).astype(np.int32)),
        "width": good(rng.integers(300, 3000, count).astype(np.int32)),
        "bit_depth": good(np.full(count, 8, np.int8)),
        "format": good(np.full(count, "JPEG")),
        "mse_noisy": good(rng.uniform(5e-3, 2e-2, count)),
        "mse": good(rng.uniform(5e-4, 2e-3, count)),
        "removed": good(rng.uniform(0, 0.05, count)),
        "error": pa.array(np.where(failed, "the file is cut off", None), pa.string()),
    }
    empty = pa.nulls(count)
    arrays = [columns.get(f.name, empty).cast(f.type) for f in tables.INFER_SCHEMA]
    return pa.table(arrays, schema=pa.schema([(f.name, f.type) for f in tables.INFER_SCHEMA]))


if __name__ == "__main__":
    main()
