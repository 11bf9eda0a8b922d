"""What a training run says of its model: the card, the curve, and pictures before and after."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from denoise.images.codec import Picture, encode, to_pixels
from denoise.images.metrics import mse, psnr
from denoise.nets.networks import UNKNOWN_SIGMA
from denoise.nets.picture_tiles import from_network
from denoise.reports.views import SheetRow, contact_sheet
from denoise.storage.uris import name_of
from denoise.training.metrics_log import Record
from denoise.training.photos import Photo
from denoise.training.recipe import Recipe
from denoise.training.samples import CAMERA, GAUSSIAN, LEVEL_GIVEN, UNCLIPPED
from denoise.training.validation import validation_pair

_SHOWN = 4  # photos before and after
_SIZE = (720, 320)  # of the curve
_MARGIN = 48
_TEXT = """\
# {name}

{network} that removes {removes} from photographs, for
denoise: `denoise infer --images photos --output denoised --model {quoted}`

| | |
|---|---|
| architecture | {architecture}, {parameters:,} parameters, {macs:.0f} kMAC a pixel |
| noise | {noise} |
| noise level | {level} |
| trained on | {photos} photos ({images}), patches of {patch} pixels, {batch_size} a step |
| steps | {last_step} of {steps}; the weights are those of step {best_step} |
| optimizer | {by}, {learning_rate:g} falling by a cosine, {loss} loss, moving average of weights |
| seed | {seed} |
| hardware | {hardware}, {workers} worker(s), {images_per_second:.0f} patches/s |
| validation | **{psnr:.2f} dB**: {validated_on} of {validation_listed} photos (middles), {judged} |
| to compare | noisy {noisy:.2f} dB, before the first step {before:.2f} dB |

Made with `denoise train --images {given} {flags}`.

PSNR is over RGB, the mean over the photos, of rounded pixels. Not for medical or forensic use: what
noise has buried, the network makes up.{limits}

![PSNR and loss over the steps](curve.png)

![clean, noisy, denoised](samples.jpg)
"""

_SHIPPED = "A convolutional autoencoder"
# architectures that have no input for the level
_DEAF = {"classic": "not taken notice of: it knows the noise that it was trained on"}
_OPTIMIZERS = {"muon": "Muon (AdamW for biases and few channels)", "adamw": "AdamW"}
_OWN = "A network of one's own, `{}` (to load it, allow it by DENOISE_NETWORKS={}),"
_CAMERA_LIMITS = """

For photographs that a camera or a phone stored as JPEG, PNG or TIFF and that show noise. Not for
raw files, nor for film grain, nor for Gaussian noise that was added: the Gaussian models are better
at that. A phone's own denoising, when it has left blotches or watercolour, stays as it is."""


@dataclass(frozen=True)
class _Kind:
    """What a card says of one kind of noise."""

    removes: str
    noise: str
    level: str
    judged: str
    given: str = "PHOTOS"
    limits: str = ""


OF_PAIRS = "as the pairs have it"  # the clipping of noise that nobody drew here
_NOT_GIVEN = "never given: the network estimates it by itself"
_KINDS = {
    "drawn": _Kind(
        "Gaussian noise",
        f"{{sigma}} of the 0..1 scale; in {UNCLIPPED:.0%} of the samples not clipped",
        f"given in {LEVEL_GIVEN:.0%} of the samples; else the network estimates it by itself",
        "{validated}, clipped",
    ),
    "pairs": _Kind(
        "Gaussian noise",
        "that of the pairs: {sigma} of the 0..1 scale, clipped and rounded",
        _NOT_GIVEN,
        "{validated}, clipped",
        given="PAIRS",
    ),
    "own pairs": _Kind(
        "noise like that of its pairs",
        "that of the pairs",
        _NOT_GIVEN,
        "noise of the pairs",
        "PAIRS",
    ),
    "camera": _Kind(
        "the noise of cameras",
        "what cameras make (`denoise/images/camera.py`), of all strengths: grain of several sizes, "
        f"stronger in mid-tones, compressed, in {CAMERA:.0%} of the samples; Gaussian in "
        f"{GAUSSIAN:.0%}; none in the others, which must come back as they were",
        _NOT_GIVEN,
        "camera noise of all strengths",
        limits=_CAMERA_LIMITS,
    ),
}


def text(name: str, fields: Mapping[str, Any], model: nn.Module, history: Sequence[Record]) -> str:
    """The model card, in Markdown."""
    training, metrics, architecture = (fields[k] for k in ("training", "metrics", "architecture"))
    kind = _KINDS[_kind_of(fields)]
    given = "NOISY --reference CLEAN" if training.get("reference") else kind.given
    return _TEXT.format(
        **{key: training[key] for key in training if key not in ("sigma", "architecture", "kind")},
        name=name,
        quoted=quote(name),
        network=_OWN.format(architecture, architecture) if ":" in architecture else _SHIPPED,
        removes=kind.removes,
        limits=kind.limits,
        by=_OPTIMIZERS[training["optimizer"]],
        given=given,
        flags=" ".join(_flags(training, is_pairs=given != "PHOTOS")),
        architecture=architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=float(model.macs_per_pixel) / 1e3,  # type: ignore[arg-type]  # untyped in torch
        noise=kind.noise.format(sigma=_words_of(fields["sigma"])),
        level=_DEAF.get(architecture, kind.level),
        judged=kind.judged.format(validated=_words_of(metrics["validation_sigma"])),
        images_per_second=np.median([record["images_per_second"] for record in history]),
        psnr=metrics["validation_psnr"],
        noisy=metrics["validation_psnr_noisy"],
        before=metrics["validation_psnr_start"],
    )


def _kind_of(fields: Mapping[str, Any]) -> str:
    if fields["clipping"] == OF_PAIRS:
        return "own pairs" if fields["sigma"] is None else "pairs"
    return "camera" if fields.get("kind") == "camera" else "drawn"


def _words_of(sigma: float | Sequence[float] | None) -> str:
    """A noise level, or the least and the greatest."""
    if sigma is None:
        return "no sigma"
    low, high = (sigma, sigma) if isinstance(sigma, int | float) else sigma
    return f"sigma {low:g}" if low == high else f"sigma {low:g} to {high:g}"


def _flags(training: Mapping[str, Any], *, is_pairs: bool) -> Iterator[str]:
    """What on the command line made the model, but for what goes without saying."""
    yield from ("--validation OTHERS",) if training.get("validation") else ()
    for name in ("init", "architecture"):
        yield from (f"--{name} {quote(training[name])}",) if training.get(name) else ()
    for name, usual in (asdict(Recipe()) | {"sigma": 0.1}).items():
        value = training.get(name, usual)
        if value not in (usual, None) and not (is_pairs and name == "sigma"):
            values = value if isinstance(value, list | tuple) else [value]
            yield f"--{name.replace('_', '-')} {' '.join(map(str, values))}"


def pictures(
    recipe: Recipe, model: nn.Module, photos: Sequence[Photo], history: Sequence[Record]
) -> dict[str, bytes]:
    """The files that the card shows."""
    rows = [_row(model, photo.path, *validation_pair(photo, recipe)) for photo in photos[:_SHOWN]]
    samples = encode(Picture(contact_sheet(rows)), format="jpeg", quality=90)
    return {"curve.png": curve(history), "samples.jpg": samples}


def curve(history: Sequence[Record]) -> bytes:
    """A PNG of the loss at each record (gray) and the validation PSNR (blue) over the steps."""
    image = Image.new("RGB", _SIZE, "white")
    pen = ImageDraw.Draw(image)
    last = history[-1]["step"]
    loss = [(record["step"], record["loss"]) for record in history]
    quality = [(record["step"], record["psnr"]) for record in history if "psnr" in record]
    _line(pen, loss, last, "silver", left=False)
    _line(pen, quality, last, "navy", left=True)
    font = ImageFont.load_default(13)
    pen.text((_MARGIN, 8), "validation PSNR in dB", "navy", font)
    pen.text((_SIZE[0] - _MARGIN, 8), "loss", "gray", font, anchor="ra")
    pen.text((_SIZE[0] - _MARGIN, _SIZE[1] - 20), f"step {last:.0f}", "black", font, anchor="ra")
    return encode(Picture(np.asarray(image)))


def _line(
    pen: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    last: float,
    color: str,
    *,
    left: bool,
) -> None:
    """One quantity over the steps, with its least and greatest value at the axis on its side."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    width, height = _SIZE[0] - 2 * _MARGIN, _SIZE[1] - 2 * _MARGIN
    span = (high - low) or 1.0
    drawn = [
        (_MARGIN + width * step / last, _MARGIN + height * (high - value) / span)
        for step, value in points
    ]
    pen.line(drawn, color, 2)
    for value, y in ((high, _MARGIN), (low, _MARGIN + height)):
        corner = (_MARGIN - 4, y) if left else (_SIZE[0] - _MARGIN + 4, y)
        font = ImageFont.load_default(11)
        pen.text(corner, f"{value:.3g}", color, font, anchor="rm" if left else "lm")


@torch.no_grad()
def _row(model: nn.Module, path: str, noisy: Tensor, clean: Tensor) -> SheetRow:
    denoised = model(noisy, torch.tensor([UNKNOWN_SIGMA]))
    original, before, after = (
        to_pixels(from_network(one)[0], 8) for one in (clean, noisy, denoised)
    )
    return SheetRow(
        name_of(path),
        original,
        before,
        after,
        psnr_noisy=psnr(mse(original, before)),
        psnr=psnr(mse(original, after)),
    )
