"""What a listing finds: files and folders, and how many of them are no inputs for which reason."""

from collections import Counter
from dataclasses import dataclass, field

_NAMED = 5  # of each reason; of a million thumbnails no more


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder below a root: path relative to it, size in bytes, mark of its version."""

    path: str
    uri: str
    size: int
    mark: str
    is_folder: bool = False
    is_special: bool = False  # a pipe or a device: reading it might never end


@dataclass
class LeftOut:
    """Files, members and rows that are no inputs."""

    counts: Counter[str] = field(default_factory=Counter)  # by reason
    names: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason

    def add(self, reason: str, path: str = "", *, count: int = 1) -> None:
        """Count what is left out, and note its path if it is among the first."""
        self.counts[reason] += count
        names = self.names.setdefault(reason, []) if path else []
        if path and len(names) < _NAMED:
            names.append(path)
