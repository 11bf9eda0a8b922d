"""A model for other programs, as ONNX or a torch.export file, checked to give the same pixels."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from denoise.errors import SettingsError, WriteError, words_of
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.storage import files, uris

_TOLERANCE = 1e-5  # a hundredth of a step of eight bits is 4e-5


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a model: denoise export --model unet --to onnx --output unet.onnx"""

    output: str  # the file to write; any URI
    to: Literal["onnx", "torch"] = "onnx"  # kind of file; torch: a .pt2 of torch.export
    model: str = "unet"  # a shipped model's name, or the URI of a package folder

    def __post_init__(self) -> None:
        if self.to not in ("onnx", "torch"):
            raise ValueError(f"to must be onnx or torch, got {self.to}")
        if not self.output:
            raise ValueError("output must not be empty")
        if uris.suffix(self.output) in IMAGE_SUFFIXES:  # it would be replaced where it is there
            raise ValueError(f"output is the file of a model, got an image's name: {self.output}")


def export(config: ExportConfig) -> dict[str, Any]:
    """Writes the model to a file, whole or not at all, after it was seen to give the same pixels.

    Raises SettingsError where the model, the packages for ONNX or the output are not there,
    WriteError where the file cannot be written.
    """
    from denoise.nets import export, package  # torch: `denoise export --help` does without

    if config.to == "onnx":
        _check_onnx()
    found = package.load(config.model)
    output = uris.absolute(config.output)
    files.check_writable(files.nearest_folder(uris.folder_of(output)))
    encoded, run = export.graph_of(found.model, onnx=config.to == "onnx")
    difference = export.difference(found.model, run)
    if difference > _TOLERANCE:
        raise RuntimeError(
            f"the exported {found.id} differs by {difference:.1e} from the model, more than "
            f"{_TOLERANCE:.0e}; nothing was written"
        )
    _write(output, encoded)
    return {
        "model": found.id,
        "to": config.to,
        "output": uris.redact(output),
        "bytes": len(encoded),
        "largest_difference": difference,
        "smallest_side": export.smallest_side(found.model),
    }


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"ONNX needs {', '.join(missing)}: pip install 'bulk-denoise[export]'")


def _write(output: str, encoded: bytes) -> None:
    try:
        files.write(output, encoded)
    except OSError as error:
        name = uris.redact(output)
        raise WriteError(f"{name} could not be written: {words_of(error)}") from error
