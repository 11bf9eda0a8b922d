"""How many CPU cores this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cores(process: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPU cores that this process may use, from 1 up.

    Those it may run on, or fewer where a container (`docker --cpus`, a Kubernetes limit) may use
    less time than they have: what its control groups say, of Linux's version 1 or 2, as `process`
    names them and `groups` has them.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min([count, *_limits(process, groups)])


def _limits(process: Path, groups: Path) -> Iterator[int]:
    """What the process's groups and those around them may use, in cores, rounded up."""
    for line in _text(process).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = groups, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = groups / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for one in (group, *group.parents):
            words = " ".join(_text(root / one / name) for name in names).split()
            if len(words) == 2 and words[0] not in ("max", "-1"):
                yield math.ceil(int(words[0]) / int(words[1]))


def _text(path: Path) -> str:
    """What a file holds; nothing where it is not there."""
    try:
        return path.read_text()
    except OSError:
        return ""
