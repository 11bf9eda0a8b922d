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
    end = given.index("--") if "--" in given else len(given)
    names, flags = _names_and_flags(given[:end], room)
    names += given[end + 1 :]
    if verb == "infer" and flags.pop("--dry-run", None) is not None:
        verb = "plan"
    meant = NAMES.get(verb, ())
    if len(names) > len(meant):
        raise ValueError(_too_many(names, meant))
    named = {flag: [name] for flag, name in zip(meant, names, strict=False)}
    if twice := named.keys() & flags.keys():
        raise ValueError(f"{min(twice)} is given twice: by position, and as a flag")
    spelled = [_flag(flag, values) for flag, values in (named | flags).items()]
    return verb, [part for one in spelled for part in one]


def _names_and_flags(
    given: list[str], room: Mapping[str, float]
) -> tuple[list[str], dict[str, list[str]]]:
    """What belongs to no flag, and the flags in full with their values.

    Of a flag that is given again the last value counts, of one that takes many all do.
    """
    names, flags = list[str](), dict[str, list[str]]()
    most, values = 0.0, list[str]()
    for one in given:
        is_number = bool(_NUMBER.fullmatch(one))
        if one.startswith("-") and not is_number:
            flag, equals, value = one.partition("=")
            flag = "--output" if flag == "-o" else flag.replace("_", "-")
            most = room.get(flag, 1)
            values = flags[flag] = flags.get(flag, []) if most == inf else []
            values += [value] if equals else []
        # a second value, where at most two are taken, is a number: --workers 2 8
        elif len(values) < most and (not values or most == inf or is_number):
            values.append(one)
        else:
            names.append(one)
    return names, flags


def _flag(flag: str, given: list[str]) -> list[str]:
    """A flag and its values: fractions as numbers where a sigma is meant, formats by their usual
    suffixes, what looks like a flag itself bound to it."""
    values = [_value(flag, one) for one in given]
    if len(values) == 1 and values[0].startswith("-") and not _NUMBER.fullmatch(values[0]):
        return [f"{flag}={values[0]}"]
    return [flag, *values]


def _value(flag: str, given: str) -> str:
    if flag in _SIGMAS and "/" in given:
        return repr(_fraction(flag, given))
    return _FORMATS.get(given.lower(), given.lower()) if flag == "--format" else given


def _too_many(names: list[str], flags: tuple[str, ...]) -> str:
    if not flags:
        return f"it takes no names, got {' '.join(names)}"
    wanted = " and ".join(flag.removeprefix("--") for flag in flags)
    given = shorten(" ".join(names), 60, placeholder=" ...")
    return (
        f"{len(names)} names ({given}), and it takes {wanted}: put a pattern in quotes "
        "('photos/*.png'), or name the folder"
    )


def _fraction(flag: str, given: str) -> float:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)/([1-9]\d*)", given)
    if found is None:
        raise ValueError(f"{flag} takes a number such as 0.1 or 25/255, got {given}")
    return float(found[1]) / float(found[2])
