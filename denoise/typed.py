"""What people type, spelled out as flags: names before the flags, -o, 25/255, jpg, --dry-run."""

import re

# verb -> the flags that names before all flags stand for
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
_FORMATS = {"jpg": "jpeg", "tif": "tiff"}


def spell_out(verb: str, given: list[str]) -> tuple[str, list[str]]:
    """The verb and its flags in full, as `flags.read` takes them.

    Raises ValueError for more names than the verb has flags for, and for a flag given twice.
    """
    given = [part for one in given for part in _parts(one)]
    if verb == "infer" and "--dry-run" in given:
        verb, given = "plan", [one for one in given if one != "--dry-run"]
    names = _names_before_flags(given)
    flags = NAMES.get(verb, ())
    rest = given[len(names) :]
    if len(names) > len(flags):
        wanted = " and ".join(flag.removeprefix("--") for flag in flags) or "no names"
        raise ValueError(
            f"{len(names)} names before the flags ({names[0]}, ...), and it takes {wanted}: put a "
            "pattern in quotes ('photos/*.png'), or name the folder"
        )
    named = [part for pair in zip(flags, names, strict=False) for part in pair]
    if twice := {flag for flag in named[::2] if flag in rest}:
        raise ValueError(f"{min(twice)} is given twice: by position, and as a flag")
    return verb, named + _values(rest)


def _parts(given: str) -> list[str]:
    """A flag and its value one by one; -o in full."""
    if given.startswith("--") and "=" in given:
        return given.split("=", 1)
    return ["--output" if given == "-o" else given]


def _names_before_flags(given: list[str]) -> list[str]:
    first = next((i for i, one in enumerate(given) if one.startswith("-")), len(given))
    return given[:first]


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
