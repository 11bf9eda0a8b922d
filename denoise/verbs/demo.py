"""`denoise demo`: noise, a short training, denoising and a report, on the sample photographs.

OUTPUT/pairs          the table that `noise` wrote
OUTPUT/model          the package that `train` wrote, from the shipped weights on these pairs
OUTPUT/denoised       what `infer` made of the noisy images with it; report.html and summary.json
OUTPUT/contact_sheet.png
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from threading import Thread
from typing import Any

from denoise.cores import cores
from denoise.errors import SettingsError
from denoise.images.codec import Picture, decode, encode
from denoise.images.noise import check_sigma
from denoise.output import tables
from denoise.output.folder import run_of
from denoise.reports.progress import words_of_time
from denoise.reports.views import SheetRow, contact_sheet
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.verbs.infer import InferConfig, infer
from denoise.verbs.noise import NoiseConfig, noise
from denoise.verbs.train import TrainConfig, train

_log = logging.getLogger(__name__)
_WORKERS = 2  # of Ray in the training; one is enough for eight photographs


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Runs every job on the sample photographs: denoise demo --output demo"""

    output: str = "demo"  # a folder; run again, it goes on where it was, or says it is done
    steps: int = 40  # of training, from the shipped weights
    sigma: float = 0.1  # standard deviation of the noise, on the 0..1 scale
    overwrite: bool = False  # discard what an earlier demo made there

    def __post_init__(self) -> None:
        if not self.output:
            raise ValueError("output must not be empty")
        check_sigma("sigma", self.sigma)
        if self.sigma == 0:
            raise ValueError("sigma must be above 0: without noise there is nothing to show")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def demo(config: DemoConfig) -> dict[str, Any]:
    """Noise -> train -> infer -> report, in one Ray session; returns the gain of each image.

    The network is trained on the very photographs that it then denoises: this shows how things go
    together, not how good the model is (`denoise models` says that, of images it has never seen).
    """
    start = time.monotonic()
    folder = uris.absolute(config.output)
    pairs, model, denoised = (join(folder, name) for name in ("pairs", "model", "denoised"))
    files.check_writable(folder)
    is_done = files.exists(join(denoised, "_SUCCESS")) and not config.overwrite
    with (
        resources.as_file(resources.files("denoise").joinpath("samples")) as samples,
        _ray(needed=not is_done),
    ):
        _run(config, samples, pairs, model, denoised)
    rows = _rows(pairs, denoised)
    sheet = join(folder, "contact_sheet.png")
    files.write(sheet, encode(Picture(contact_sheet(rows))))
    gains = [row.psnr - row.psnr_noisy for row in rows]
    seconds, page = time.monotonic() - start, join(denoised, "report.html")
    return {
        "images": len(rows),
        "psnr_noisy": sum(row.psnr_noisy for row in rows) / len(rows),
        "psnr": sum(row.psnr for row in rows) / len(rows),
        "gain_db": sum(gains) / len(gains),
        "gains_db": {row.path: gain for row, gain in zip(rows, gains, strict=True)},
        "seconds": seconds,
        "report": page,
        "contact_sheet": sheet,
        "table": _table(rows),
        "words": [
            f"{len(rows)} photographs got noise, a model was trained on them and removed it again,"
            f" in {words_of_time(seconds)}. How close each is to the original (PSNR in dB):",
            "",
            *_table(rows),
            "",
            f"look at  {uris.redact(sheet)}",
            f"and at   {uris.redact(page)}",
        ],
    }


def _run(config: DemoConfig, samples: Path, pairs: str, model: str, denoised: str) -> None:
    """The three jobs, each of which does nothing where it is finished already."""
    again = config.overwrite
    photographs = str(samples / "*.[jpw]*")  # their licences lie beside them
    _log.info("1 of 3: adding noise of sigma %g to the sample photographs", config.sigma)
    noise(
        NoiseConfig(
            images=photographs,
            output=pairs,
            sigma=config.sigma,
            workers=1,  # by Ray
            overwrite=again,
        )
    )
    _log.info("2 of 3: training the shipped model `unet` on them for %d steps", config.steps)
    if again:
        _discard_trained(model)
    train(
        TrainConfig(
            images=pairs,
            output=model,
            validation=pairs,
            init="unet",
            steps=config.steps,
            batch_size=8,
            learning_rate=1e-4,  # gently: the weights are good already
            save_every=config.steps,
            workers=min(_WORKERS, cores()),
        )
    )
    _log.info("3 of 3: denoising them with the model just trained")
    infer(InferConfig(images=pairs, output=denoised, model=model, workers=1, overwrite=again))


def _discard_trained(model: str) -> None:
    """Removes what `train` made there. Raises SettingsError where it was something else."""
    found = run_of(model)
    if found and found.get("verb") != "train":
        raise SettingsError(f"{uris.redact(model)} is the output of `{found.get('verb')}`")
    if found:
        files.remove(model)


@contextmanager
def _ray(*, needed: bool) -> Iterator[None]:
    """One session for all jobs; none where everything is done already."""
    if not needed:
        yield
        return
    from denoise.runners import ray_session

    with ray_session.connected():
        # What the training needs is imported while the first job's workers start; no daemon, as to
        # end amid the loading of torch can crash
        Thread(target=import_module, args=("denoise.training.ray_train",)).start()
        yield


def _rows(pairs: str, denoised: str) -> list[SheetRow]:
    """What there is to see, by path."""
    results = {row["path"]: row for row in tables.rows(denoised) if row["error"] is None}
    made = {row["path"]: row for row in tables.rows(pairs) if row["path"] in results}
    return [_row(made[path], results[path]) for path in sorted(made)]


def _row(pair: Mapping[str, Any], result: Mapping[str, Any]) -> SheetRow:
    return SheetRow(
        path=result["path"],
        clean=decode(pair["clean"]["bytes"]).pixels,
        noisy=decode(pair["noisy"]["bytes"]).pixels,
        denoised=decode(result["image"]["bytes"]).pixels,
        psnr_noisy=result["psnr_noisy"],
        psnr=result["psnr"],
    )


def _table(rows: list[SheetRow]) -> list[str]:
    """Lines of text, one an image."""
    width = max(len(row.path) for row in rows)
    lines = [f"{'':{width}}   noisy  denoised    gain"]
    for row in rows:
        gain = row.psnr - row.psnr_noisy
        lines.append(f"{row.path:{width}}  {row.psnr_noisy:6.2f}    {row.psnr:6.2f}  {gain:+6.2f}")
    return lines
