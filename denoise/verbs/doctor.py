"""What a bug report needs: versions, devices, Ray, stores and folders, each tried, not assumed."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

from denoise import errors
from denoise.cores import cores
from denoise.errors import SettingsError
from denoise.storage import files, uris

_NEEDED = ("ray", "torch", "numpy", "pyarrow", "pillow", "fsspec", "isal", "simplejpeg", "tyro")
_STORES = {"s3://": ("s3fs", "s3"), "gs://": ("gcsfs", "gcs"), "az://": ("adlfs", "azure")}
_MORE = {
    "16-bit PNG and TIFF, JPEG XL": ("imagecodecs", "formats"),
    "HEIC": ("pi_heif", "formats"),
    "SSIM": ("skimage", "ssim"),
}
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Checks this machine: denoise doctor --images s3://bucket/photos --output s3://bucket/out"""

    images: str | None = None  # a URI to read from, to see that it answers
    output: str | None = None  # a URI to write a small file below, and to remove it
    no_ray: bool = False  # do not start Ray, which takes some seconds

    def __post_init__(self) -> None:
        for name in ("images", "output"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must not be empty")


@dataclass(frozen=True)
class Check:
    """What was looked at, how it was, and what can be done about it."""

    name: str
    state: Literal["ok", "missing", "bad"]  # missing: something optional is not there
    found: str
    way_out: str = ""


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """Runs every check; `ok` is false where one of them is bad."""
    checks = [
        _python(),
        *map(_package, _NEEDED),
        *(_extra(name, *extra) for name, extra in {**_STORES, **_MORE}.items()),
        _try("network", _network),
        _try("device", _device),
        _try("memory", _memory),
        _try("shared memory", _shared_memory),
        _try("temporary folder", _temporary_folder),
    ]
    if not config.no_ray:
        checks.append(_try("ray", _ray))
    if config.images is not None:
        checks.append(_try("images", lambda: _answers(str(config.images))))
    if config.output is not None:
        checks.append(_try("output", lambda: _writable(str(config.output))))
    return {
        "ok": all(check.state != "bad" for check in checks),
        "platform": platform.platform(),
        "checks": [asdict(check) for check in checks],
        "table": [_line(check) for check in checks],
    }


def _line(check: Check) -> str:
    way_out = f" ({check.way_out})" if check.way_out else ""
    return f"{check.state:9}{check.name:22}{check.found}{way_out}"


def _try(name: str, check: Callable[[], Check]) -> Check:
    """A check that may fail by itself: what it raises is what it found."""
    try:
        return check()
    except SettingsError as error:
        return Check(name, "bad", str(error))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        return Check(name, "bad", errors.words_of(error))


def _python() -> Check:
    version = platform.python_version()
    is_new = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    return Check(
        "python", "ok" if is_new else "bad", version, "" if is_new else "use 3.11 or newer"
    )


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "bad", "not installed", "pip install -c constraints.txt -e .")


def _extra(name: str, package: str, extra: str) -> Check:
    if find_spec(package) is None:
        return Check(name, "missing", f"needs {package}", f"pip install 'bulk-denoise[{extra}]'")
    distribution = {"skimage": "scikit-image"}.get(package, package)
    return Check(name, "ok", f"{package} {metadata.version(distribution)}")


def _network() -> Check:
    """The shipped network denoises a gray square and leaves it gray, in the fastest precision."""
    import numpy as np

    from denoise.nets.denoiser import Denoiser

    start = time.perf_counter()
    gray = np.full((32, 32, 3), 0.5, np.float32)
    denoiser = Denoiser.load(threads=1)
    worst = float(np.abs(denoiser(gray) - gray).max())
    seconds = time.perf_counter() - start
    if not worst < 0.1:
        return Check("network", "bad", f"a gray square is off by {worst:.3f}", "install it again")
    noted = "".join(f"; {note}" for note in sorted(denoiser.notes))  # the fastest was unsound
    found = f"denoises in {denoiser.precision} (loaded and run in {seconds:.1f} s){noted}"
    return Check("network", "ok", found)


def _device() -> Check:
    """What the networks will run on: a product of two matrices on it is right."""
    import torch

    from denoise.nets.networks import device
    from denoise.nets.precision import PRECISIONS, can_do

    found = device()
    ones = torch.ones(64, 64, device=found)
    if float((ones @ ones).sum()) != 64.0**3:
        return Check("device", "bad", f"{found} multiplies wrongly")
    possible = ", ".join(precision for precision in PRECISIONS if can_do(precision, found))
    if found.type == "cuda":
        memory = torch.cuda.get_device_properties(found).total_memory / _GIB
        name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(found)}"
        return Check("device", "ok", f"{name}, {memory:.0f} GiB each; {possible}")
    return Check("device", "ok", f"{found}, {torch.get_num_threads()} threads; {possible}")


def _memory() -> Check:
    """Physical memory; Ray's workers take some 0.3 GiB each before any image."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    found = f"{total:.1f} GiB, {cores()} CPUs"
    if total < 2:
        return Check("memory", "bad", found, "2 GiB are needed for a small run")
    return Check("memory", "ok", found)


def _shared_memory() -> Check:
    """Ray's object store lives in /dev/shm; where that is small (Docker: 64 MiB) it is slow."""
    if not os.path.isdir("/dev/shm"):
        return Check("shared memory", "ok", "none of its own on this system")
    free = shutil.disk_usage("/dev/shm").free / _GIB
    if free < 0.2:
        way_out = "docker run --shm-size=2g, or an emptyDir with medium Memory on Kubernetes"
        return Check("shared memory", "bad", f"{free:.2f} GiB free in /dev/shm", way_out)
    return Check("shared memory", "ok", f"{free:.1f} GiB free in /dev/shm")


def _temporary_folder() -> Check:
    """Ray's session goes there: it must be writable and have room."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"denoise")
        file.flush()
        free = shutil.disk_usage(file.name).free / _GIB
    if free < 1:
        way_out = "make room, or set TMPDIR and RAY_TMPDIR"
        return Check("temporary folder", "bad", f"{free:.2f} GiB free", way_out)
    return Check("temporary folder", "ok", f"{tempfile.gettempdir()}, {free:.0f} GiB free")


def _ray() -> Check:
    """Ray starts (or the cluster of RAY_ADDRESS answers) and says what it has."""
    from denoise.runners import is_private, ray_session

    start = time.perf_counter()
    with ray_session.connected() as resources:
        where = "private session" if is_private() else "cluster"
        found = (
            f"{where} of {resources.nodes} nodes, {resources.cpus:g} CPUs, {resources.gpus:g} GPUs"
        )
    return Check(
        "ray", "ok", f"{found} (started and stopped in {time.perf_counter() - start:.1f} s)"
    )


def _answers(uri: str) -> Check:
    location = uris.absolute(uri)
    if not files.exists(location):
        return Check("images", "bad", f"nothing at {uris.redact(location)}", "is the URI right?")
    kind = "folder" if files.is_folder(location) else "file"
    return Check("images", "ok", f"a {kind} at {uris.redact(location)}")


def _writable(uri: str) -> Check:
    location = uris.absolute(uri)
    try:
        files.check_writable(files.nearest_folder(location))
    except SettingsError as error:
        return Check("output", "bad", str(error), "are the rights and credentials there?")
    return Check("output", "ok", f"can write to {uris.redact(location)}")
