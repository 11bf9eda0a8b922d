"""What `denoise VERB --help` prints: flags in groups, those that everybody needs first."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import getdoc
from shutil import get_terminal_size
from textwrap import fill, wrap

from denoise.typed import NAMES

# group -> flags, in the order of their help; what is in none stands below "more"
GROUPS = {
    "input and output": "images output into model models reference validation include exclude "
    "limit column keep-columns allow-elsewhere overwrite retry-errors",
    "denoising": "strength tile precision",
    "noise": "kind sigma add-noise iso seed float-noise white-level",
    "training": "architecture init steps batch-size patch learning-rate loss optimizer accumulate "
    "save-every patience memory compile",
    "saving": "save format quality strip-metadata to",
    "measuring": "ssim max-error-rate max-pixels max-seconds",
    "machine": "workers device gpus-per-worker no-ray",
    "messages": "dry-run json verbose help",
}
_METAVARS = {
    **dict.fromkeys(("images", "output", "into", "reference", "validation"), "FOLDER"),
    **dict.fromkeys(("include", "exclude"), "GLOB ..."),
    "sigma": "SIGMA",
    "add-noise": "SIGMA",
    "model": "NAME",
    "models": "NAME ...",
    "init": "NAME",
    "architecture": "NAME",
    "column": "NAME",
    "keep-columns": "NAME ...",
    "workers": "N | MIN MAX",
    "white-level": "N | auto",
    "memory": "GIB",
    "max-seconds": "SECONDS",
}
_OF = {  # what a verb's flags mean elsewhere
    ("train", "sigma"): "SIGMA | MIN MAX",
    ("compare", "output"): "FILE",
    ("export", "output"): "FILE",
}
_EXAMPLES = {
    "demo": ("denoise demo", "denoise demo --output somewhere --steps 200"),
    "noise": (
        "denoise noise photos pairs --sigma 25/255",
        "denoise noise 's3://bucket/photos/**' s3://bucket/pairs --kind camera",
    ),
    "train": (
        "denoise train photos my-model --init unet --steps 2000",
        "denoise train noisy my-model --reference clean --init photo",
    ),
    "infer": (
        "denoise infer photo.jpg clean.jpg",
        "denoise infer photos cleaned --save files --format same",
    ),
    "plan": ("denoise plan photos cleaned", "denoise infer photos cleaned --dry-run"),
    "extract": ("denoise extract cleaned", "denoise extract cleaned photos-clean"),
    "compare": (
        "denoise compare photos --models photo unet",
        "denoise compare noisy --models photo my-model --reference clean",
    ),
    "report": ("denoise report cleaned", "denoise report cleaned --json"),
    "models": ("denoise models", "denoise models --json"),
    "export": (
        "denoise export unet unet.onnx",
        "denoise export my-model model.pt2 --to torch",
    ),
    "doctor": ("denoise doctor", "denoise doctor --images s3://bucket/photos --no-ray"),
}
_SEE_ALSO = {
    "demo": "infer, train",
    "noise": "train (from the pairs), infer --add-noise (without a table between)",
    "train": "infer --model MODEL, compare, export",
    "infer": "plan (what it would cost), models (which one), extract (files of a table), compare",
    "plan": "infer",
    "extract": "infer --save files",
    "compare": "models, infer --reference",
    "report": "infer, noise",
    "models": "compare, infer --model",
    "export": "models, train",
    "doctor": "plan",
}
EXIT_CODES = "0 done, 1 failed, 2 wrong flags or URIs, 3 too many images failed, 130 interrupted"
_SHORT = {"output": "-o, ", "verbose": "-v, ", "help": "-h, "}
_RAY_ADDRESS = (
    "RAY_ADDRESS",
    "the Ray cluster to work on, such as 10.0.0.7:6379; else this machine",
)
_NETWORKS = ("DENOISE_NETWORKS", "networks of your own that may be loaded: MODULE:CLASS,...")
_ENVIRONMENT = {  # verb -> the variables that it reads, and what they hold
    "noise": (_RAY_ADDRESS,),
    "infer": (_RAY_ADDRESS, _NETWORKS),
    "plan": (_RAY_ADDRESS, _NETWORKS),
    "compare": (_NETWORKS,),
    "export": (_NETWORKS,),
    "doctor": (_RAY_ADDRESS,),
    "train": (
        _RAY_ADDRESS,
        _NETWORKS,
        ("MLFLOW_TRACKING_URI", "log metrics there too, by MLflow (extra `track`)"),
        ("WANDB_PROJECT", "log metrics to it too, by Weights & Biases (extra `track`)"),
    ),
}
_NOTHING = {"False", "None", "", "()"}  # defaults that say nothing


@dataclass(frozen=True)
class Flag:
    """A flag as it is explained."""

    name: str
    takes: str  # FOLDER, say; empty where it is a switch
    words: str
    default: str  # empty where there is none to tell


# what `typed` makes of a word that is no flag of the verb's config
_SPELLED = {
    "infer": (Flag("dry-run", "", "do nothing but say what would be done, as `plan` does", ""),)
}


def text(verb: str, config: type, box: str) -> str:
    """The help of a verb; `box` is tyro's own, drawn so wide that each flag is on a line or two."""
    width = min(get_terminal_size((100, 24)).columns, 100)
    about = getdoc(config) or ""
    found = {flag.name: flag for flag in (*_flags_in(verb, box), *_SPELLED.get(verb, ()))}
    parts = [f"usage: {usage(verb, config)} [FLAGS]", fill(about, width)]
    for group, flags in _group(found).items():
        parts.append("\n".join([f"{group}:", *(_lines(flag, width) for flag in flags)]))
    parts.append("\n".join(["examples:", *(f"  {one}" for one in _EXAMPLES[verb])]))
    if variables := _ENVIRONMENT.get(verb):
        lines = [f"  {name:24}{words}" for name, words in variables]
        parts.append("\n".join(["environment:", *lines]))
    parts.append(f"see also: {_SEE_ALSO[verb]}\nexit codes: {EXIT_CODES}")
    return "\n\n".join(parts) + "\n"


def usage(verb: str, config: type) -> str:
    """How a verb is called: with what must be given, and in brackets what may."""
    needed = {one.name for one in fields(config) if one.default is one.default_factory is MISSING}
    names = [flag.removeprefix("--") for flag in NAMES.get(verb, ())]
    last = max((place for place, name in enumerate(names, 1) if name in needed), default=0)
    shown = [
        *(name.upper() for name in names[:last]),
        *(f"[{name.upper()}]" for name in names[last:]),
    ]
    return " ".join(["denoise", verb, *shown])


def _group(found: Mapping[str, Flag]) -> dict[str, list[Flag]]:
    named = {group: names.split() for group, names in GROUPS.items()}
    known = {name for names in named.values() for name in names}
    *first, last = named
    order = [*first, "more", last]
    named["more"] = [name for name in found if name not in known]
    groups = {group: [found[name] for name in named[group] if name in found] for group in order}
    return {group: flags for group, flags in groups.items() if flags}


def _lines(flag: Flag, width: int, column: int = 26) -> str:
    """A flag, what it takes, and below or beside them what it does."""
    head = f"  {_SHORT.get(flag.name, '')}--{flag.name} {flag.takes}".rstrip()
    default = f" ({flag.default})" if flag.default else ""
    words = wrap(flag.words + default, width - column, break_on_hyphens=False)
    if len(head) > column - 2:
        return "\n".join([head, *(" " * column + line for line in words)])
    first, *rest = words or [""]
    return "\n".join([f"{head:{column}}{first}", *(" " * column + line for line in rest)])


def _flags_in(verb: str, box: str) -> Iterator[Flag]:
    """The flags that tyro explains."""
    lines = [re.sub(r"^[│ ] ?(?=\S)|│?\s*$", "", line) for line in box.splitlines()]
    lines = [line for line in lines if not re.fullmatch(r"[-─╭╮╰╯]*", line)]
    _, *entries = re.split(r"^(?=-)", "\n".join(lines), flags=re.MULTILINE)
    for entry in entries:
        head, words = re.split(r"\s{2,}|\n\s*", f"{entry.strip()}  ", maxsplit=1)
        name, _, takes = head.rpartition("--")[2].partition(" ")
        words, default = _default_of(" ".join(words.split()))
        yield Flag(name, _words_of_values(verb, name, takes.strip()), words, default)


def _default_of(words: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?)\s*\((required|default: ?(.*))\)", words)
    if not found:
        return words, ""
    is_told = found[2] == "required" or found[3] not in _NOTHING
    return found[1], found[2] if is_told else ""


def _words_of_values(verb: str, name: str, takes: str) -> str:
    """What a flag takes, for people: choices as they are, numbers as N, nothing of types."""
    if (verb, name) in _OF:
        return _OF[verb, name]
    if not takes or name in _METAVARS:
        return _METAVARS.get(name, "")
    choices = re.fullmatch(r"(?:\{None\}\|)?\{(\w+(?:,\w+)*)\}", takes)
    return choices[1].replace(",", "|") if choices else "X" if "FLOAT" in takes else "N"
