"""How many CPU cores a process may use."""

import os
from pathlib import Path

import pytest

from denoise.cores import cores

ALL = cores(Path("/no/such/file"))


@pytest.mark.parametrize(
    ("process", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/pod/app\n", {"pod/cpu.max": "100000 100000\n", "pod/app/cpu.max": "max 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, ALL),  # 64 cores
        (
            "4:memory:/\n3:cpuacct,cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        ("0::/gone\n1:name=systemd:/x:y\n", {}, ALL),
    ],
)
def test_a_process_uses_no_more_cores_than_its_container_may(
    process: str, files: dict[str, str], expected: int, tmp_path: Path
):
    (tmp_path / "process").write_text(process)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path / "process", tmp_path) == expected


def test_a_process_uses_no_core_that_it_may_not_run_on():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system ties no process to a core")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
