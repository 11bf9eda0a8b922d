"""Writes the requirements with hashes that the image and GitHub's CI install.

python -m cluster.lock        writes all three:
cluster/requirements.txt      what the image has beside torch
cluster/torch-cpu.txt         torch for CPUs, from PyTorch's own index
cluster/requirements-ci.txt   what the tests need, torch for CPUs and tools included

The versions are those of constraints.txt; the hashes are of the files that pip would take here:
run it on Linux, x86_64, with the image's Python (3.11). constraints.txt itself has no hashes: pip
wants all requirements hashed or none, and would refuse `pip install -c constraints.txt -e .`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMAGE = ".[s3,gcs,azure,formats]"
TESTS = ".[s3,gcs,azure,formats,ssim,export]"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    image, tests = _resolved(IMAGE), _resolved(TESTS, "--group", "dev")
    torch = [line for line in image if line.startswith("torch==")]
    _write("requirements.txt", [line for line in image if line not in torch])
    _write("torch-cpu.txt", [f"--index-url {TORCH_INDEX}", *torch])
    _write("requirements-ci.txt", [f"--extra-index-url {TORCH_INDEX}", *tests])


def _resolved(*wanted: str) -> list[str]:
    """`name==version --hash=sha256:...`, one for each package that pip would install."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--constraint", "constraints.txt"]
        command += ["--extra-index-url", TORCH_INDEX, "--report", report.name, *wanted]
        subprocess.run(command, cwd=ROOT, check=True)
        found: list[dict[str, Any]] = json.load(report)["install"]
    return sorted(_line(one) for one in found if "dir_info" not in one["download_info"])  # not us


def _line(one: dict[str, Any]) -> str:
    name = one["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
    digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={one['metadata']['version']} --hash=sha256:{digest}"


def _write(name: str, lines: list[str]) -> None:
    head = "# Written by `python -m cluster.lock`, for Python 3.11 on Linux, x86_64.\n"
    (ROOT / "cluster" / name).write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
