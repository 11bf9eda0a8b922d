"""A verb's flags, made from its config by tyro: read, completed in a shell, refused in one line."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import field, make_dataclass
from functools import reduce
from io import StringIO
from math import inf
from operator import or_
from textwrap import shorten
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

from denoise import helptext

_REPEATED = r"\s*(For full helptext|Argument helptext|Got errors)"  # what --help says too
_KINDS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "{INT INT}": "two whole numbers",
    "{FLOAT FLOAT}": "two numbers",
}


def read(verb: str, config: type, given: list[str]) -> tuple[Any, bool, bool]:
    """A verb's config from its flags, by tyro. Raises ValueError where one is wrong or missing;
    --help ends here."""
    import tyro

    if {"-h", "--help"} & set(given):
        _help(verb, config)
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            found: Any = tyro.cli(
                _command_of(config),
                prog=f"denoise {verb}",
                description=config.__doc__,
                args=given,
                config=(tyro.conf.FlagCreatePairsOff,),  # --ssim has no --no-ssim: as is usual
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        words = _words_in(errors.getvalue())
        usage = ""
        if words.startswith("missing:"):
            usage = f"{helptext.usage(verb, config)}; "
            words += _of_many_values(config, given)
        raise ValueError(f"{words} ({usage}denoise {verb} --help explains the flags)") from ended
    return found.config, found.json, found.verbose


def most_values_of(config: type) -> dict[str, float]:
    """The most values that each flag of a verb takes; infinite where it is as many as follow."""
    kinds = get_type_hints(config)
    own = {f"--{name.replace('_', '-')}": _most_values(kind) for name, kind in kinds.items()}
    return own | dict.fromkeys(("--json", "--verbose", "-v", "--help", "-h", "--dry-run"), 0)


def _of_many_values(config: type, given: list[str]) -> str:
    """What to do about a flag that took the names."""
    for flag, most in most_values_of(config).items():
        if most == inf and flag in given:
            return f"; {flag} takes all that follows it: put names before it, or behind --"
    return ""


def _most_values(kind: Any) -> float:
    parts = get_args(kind)
    if kind in (bool, type(None)):
        return 0
    if get_origin(kind) is tuple:
        return inf if Ellipsis in parts else len(parts)
    return max(map(_most_values, parts)) if get_origin(kind) in (Union, UnionType) else 1


def _help(verb: str, config: type) -> NoReturn:
    """Print a verb's help and exit."""
    import tyro

    box, before = StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"  # so wide that what is written of a flag stands on one line
    try:
        with redirect_stdout(box), suppress(SystemExit):
            tyro.cli(_command_of(config), args=["--help"], config=(tyro.conf.FlagCreatePairsOff,))
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    sys.stdout.write(helptext.text(verb, config, box.getvalue()))
    sys.exit(0)


def complete(verbs: Mapping[str, tuple[type, str]], given: list[str]) -> None:
    """Prints what a shell needs to complete all verbs (each with its config, and what it does) and
    their flags, and exits."""
    import tyro

    commands: list[Any] = [
        Annotated[_command_of(config), tyro.conf.subcommand(verb, description=about)]
        for verb, (config, about) in verbs.items()
    ]
    any_verb: Any = reduce(or_, commands)
    tyro.cli(any_verb, prog="denoise", args=given, config=(tyro.conf.FlagCreatePairsOff,))


def _command_of(config: type) -> type:
    """What can be given to a verb: its config, and the flags that all of them have."""
    import tyro

    says = "print one line of JSON on stdout, and nothing else there"
    return make_dataclass(
        "Command",
        [
            ("config", Annotated[config, tyro.conf.arg(name="")]),
            ("json", Annotated[bool, tyro.conf.arg(help=says)], field(default=False)),
            (
                "verbose",
                Annotated[
                    bool, tyro.conf.arg(aliases=["-v"], help="show Ray's own log and progress too")
                ],
                field(default=False),
            ),
        ],
        frozen=True,
    )


def _words_in(box: str) -> str:
    """What tyro says in a box of many lines, without the help that it repeats there."""
    _, _, inner = box.partition("\n")  # a title stands in the first line
    bare = re.sub(r"^│| *│?$", "", inner, flags=re.MULTILINE)
    paragraphs = re.split(r"(?:\n|^)[-─╰╯\s]*(?:\n|$)", bare)
    lines = [_line_of(one) for one in paragraphs if one.strip() and not re.match(_REPEATED, one)]
    return shorten("; ".join(lines).rstrip("."), 300, placeholder=" ...")


def _line_of(paragraph: str) -> str:
    """A paragraph of tyro's on one line; of flags that it explains, their names."""
    heading, *rest = paragraph.strip().splitlines()
    flags = re.findall(r"^ {5,6}(\S+)", "\n".join(rest), re.MULTILINE)
    heading = re.sub("^missing from .*", "missing:", heading[:1].lower() + heading[1:])
    return _plain(" ".join([heading, *([", ".join(flags)] if flags else map(str.strip, rest))]))


def _plain(line: str) -> str:
    """What tyro says of a value, in the words of people who do not program."""
    if found := re.match(r"missing value for argument '(--\S+)'", line):
        return f"{found[1]} needs a value"
    if found := re.match(r"invalid choice '(.*)' for argument '(--\S+)'", line):
        choices = ", ".join(re.findall(r"'([^']*)'", line.partition("Expected")[2]))
        return f"{found[2]} must be one of {choices}, got {found[1]}"
    if found := re.match(r"error parsing (--\S+): (.*?)(?: could .*from|:) (\[.*\]|'.*')", line):
        got = " ".join(re.findall(r"'([^']*)'", found[3]))
        return f"{found[1]} takes {_kinds_in(found[2])}, got {got or 'nothing'}"
    return line


def _kinds_in(text: str) -> str:
    """The kinds of values that tyro names, or Python's int and float do."""
    if "|" not in text:
        return "a whole number" if "int()" in text else "a number"
    kinds = text.removeprefix("no type matching ").replace("{None}|", "").split("|")
    return " or ".join(_KINDS.get(kind, kind.strip("{}")) for kind in kinds)
