"""Files that are no inputs: how many for which reason, and the names of a few."""

from collections import Counter

_NAMED = 5  # of each reason; of a million thumbnails no more


class LeftOut(Counter[str]):
    """Counts by reason, with the names of the first files of each."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}


def leave_out(left_out: Counter[str], reason: str, path: str) -> None:
    """Count a file, and note its name if there is room for it."""
    left_out[reason] += 1
    if isinstance(left_out, LeftOut):
        names = left_out.names.setdefault(reason, [])
        if len(names) < _NAMED:
            names.append(path)
