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
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(/\d+)?")
_FORMATS = {"jpg": "jpeg", "tif": "tiff"}


def spell_out(
    verb: str, given: list[str], most_values: Mapping[str, float]
) -> tuple[str, list[str]]:
    """The verb and its flags in full, as `flags.read` takes them; names may stand anywhere.

    `most_values` has how many each flag takes at most. Raises ValueError for more names than the
    verb has flags for, for a name whose flag is given too, and for a value that a flag has no use
    for.
    """
    end = given.index("--") if "--" in given else len(given)
    names, flags = _names_and_flags(given[:end], most_values)
    names += given[end + 1 :]
    if flags.keys() & {"-h", "--help"}:
        return verb, ["--help"]
    if verb == "infer" and flags.pop("--dry-run", None) is not None:
        verb = "plan"
    wanted = NAMES.get(verb, ())
    left = [flag for flag in wanted if flag not in flags]
    if len(left) < len(names) <= len(wanted):
        twice = next(flag for flag in wanted if flag in flags)
        raise ValueError(f"{twice} is given twice: by position, and as a flag")
    if len(names) > len(wanted):
        raise ValueError(_too_many(names, wanted))
    named = {flag: [name] for flag, name in zip(left, names, strict=False)}
    spelled = [_flag(flag, values) for flag, values in (named | flags).items()]
    return verb, [part for one in spelled for part in one]


def _names_and_flags(
    given: list[str], most_values: Mapping[str, float]
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
            flag = _in_full(flag)
            most = most_values.get(flag, 1)
            values = flags[flag] = flags.get(flag, []) if most == inf else []
            if equals and not most:
                raise ValueError(f"{flag} takes no value, got {value}")
            if equals:  # then that value alone
                values.append(value)
                most = 0
        # a second value, where at most two are taken, is a number: --workers 2 8
        elif len(values) < most and (not values or most == inf or is_number):
            values.append(one)
        else:
            names.append(one)
    return names, flags


def _in_full(flag: str) -> str:
    """-o as --output, --add_noise as --add-noise."""
    if flag == "-o":
        return "--output"
    return flag.replace("_", "-") if flag.startswith("--") else flag


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
