"""What people type, spelled out as flags: names without flags, -o, 25/255, jpg, --dry-run."""

import re
from collections.abc import Mapping
from math import inf
from textwrap import shorten

# verb -> the flags that names stand for
NAMES = {
    "noise": ("--images", "--output"),
    "train": ("--images", "--output"),
    "infer": ("--images", "--output"),
    "plan": ("--images", "--output"),
    "report": ("--output",),
    "demo": ("--output",),
    "extract": ("--output", "--into"),
    "compare": ("--images",),
    "export": ("--model", "--output"),
}
_SIGMAS = ("--sigma", "--add-noise")
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)(e-?\d+)?(/\d+)?")
_FORMATS = {"jpg": "jpeg", "tif": "tiff"}


def spell_out(verb: str, given: list[str], room: Mapping[str, float]) -> tuple[str, list[str]]:
    """The verb and its flags in full, as `flags.read` takes them; names may stand anywhere.

    `room` has the most values that each flag takes. Raises ValueError for more names than the verb
    has flags for, and for a flag given twice.
    """
    given = [part for one in given for part in _parts(one)]
    if verb == "infer" and "--dry-run" in given:
        verb, given = "plan", [one for one in given if one != "--dry-run"]
    names, rest = _names_and_flags(given, room)
    flags = NAMES.get(verb, ())
    if len(names) > len(flags):
        raise ValueError(_too_many(names, flags))
    named = [part for pair in zip(flags, names, strict=False) for part in pair]
    if twice := {flag for flag in named[::2] if flag in rest}:
        raise ValueError(f"{min(twice)} is given twice: by position, and as a flag")
    return verb, named + _values(rest)


def _parts(given: str) -> list[str]:
    """A flag and its value one by one, `--add_noise` with hyphens, -o in full."""
    if not given.startswith("--"):
        return ["--output" if given == "-o" else given]
    flag, equals, value = given.partition("=")
    return [flag.replace("_", "-"), *([value] if equals else [])]


def _names_and_flags(given: list[str], room: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """What belongs to no flag, and the flags with their values."""
    names, rest = list[str](), list[str]()
    most, taken = 0.0, 0
    for one in given:
        is_number = bool(_NUMBER.fullmatch(one))
        if one.startswith("-") and not is_number:
            most, taken = room.get(one, 1), 0
            rest.append(one)
        # a second value, where at most two are taken, is a number: --workers 2 8
        elif taken < most and (not taken or most == inf or is_number):
            taken += 1
            rest.append(one)
        else:
            names.append(one)
    return names, rest


def _too_many(names: list[str], flags: tuple[str, ...]) -> str:
    if not flags:
        return f"it takes no names, got {' '.join(names)}"
    wanted = " and ".join(flag.removeprefix("--") for flag in flags)
    given = shorten(" ".join(names), 60, placeholder=" ...")
    return (
        f"{len(names)} names ({given}), and it takes {wanted}: put a pattern in quotes "
        "('photos/*.png'), or name the folder"
    )


def _values(given: list[str]) -> list[str]:
    """Fractions as numbers where a sigma is meant, formats by their usual suffixes."""
    found, flag = [], ""
    for one in given:
        flag = one if one.startswith("--") else flag
        if flag in _SIGMAS and "/" in one:
            one = repr(_fraction(flag, one))
        elif flag == "--format":
            one = _FORMATS.get(one.lower(), one.lower())
        found.append(one)
    return found


def _fraction(flag: str, given: str) -> float:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)/([1-9]\d*)", given)
    if found is None:
        raise ValueError(f"{flag} takes a number such as 0.1 or 25/255, got {given}")
    return float(found[1]) / float(found[2])
