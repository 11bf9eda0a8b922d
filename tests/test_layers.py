"""The architecture: every module imports only what stands before it, and keeps to its libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import denoise

HOME = Path(denoise.__file__).parent
ORDER = [
    # arrays only
    "kinds", "exif", "writers", "planes", "tiff", "decoders", "image", "noise", "metrics", "tiles",
    # places and tables
    "disk", "storage", "embedded", "inputs", "tables", "manifest", "output", "progress", "roster",
    "census",
    # torch, no ray
    "model", "package", "start", "denoiser", "portable",
    # pairs of images; then ray, no torch
    "pairs", "patches", "waiting", "runtime", "shards", "supply",
    # the stories
    "recorder", "judge", "learning", "views", "card", "checkpoints", "group",
    "worker", "training", "page", "report",
    "bulk", "noising", "inference", "plan", "demo", "doctor", "export", "__main__",
]  # fmt: skip
ONLY = {
    "fsspec": {"storage"},
    "ray": {"waiting", "runtime", "shards", "supply", "group", "worker", "training", "__main__"},
    "torch": {
        "plan",
        "doctor",
        "model",
        "package",
        "denoiser",
        "start",
        "group",
        "checkpoints",
        "worker",
        "recorder",
        "learning",
        "judge",
        "card",
        "export",
        "portable",
    },
}
MODULES = sorted(path.stem for path in HOME.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_before_it(module: str):
    place = ORDER.index(module)
    later = {name for name in _own(module) if ORDER.index(name) >= place}
    assert not later, f"{module} imports {later}, which stand after it"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_used_in_its_own_places_only(library: str):
    users = {module for module in MODULES if library in _libraries(module)}
    assert users <= ONLY[library]


def test_the_order_names_every_module_and_no_other():
    assert sorted(ORDER) == MODULES


def test_importing_the_package_and_the_command_loads_neither_torch_nor_ray():
    loaded = _modules_after("import denoise, denoise.__main__")
    assert loaded.isdisjoint({"torch", "ray", "pyarrow", "fsspec"})


@pytest.mark.parametrize("verb", ["noise", "infer", "train", "plan", "report", "models"])
def test_help_of_a_verb_loads_neither_torch_nor_ray(verb: str):
    loaded = _modules_after(
        "import contextlib, io\n"
        "from denoise.__main__ import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main([{verb!r}, '--help'])"
    )
    assert loaded.isdisjoint({"torch", "ray"})


def _modules_after(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.split(".")[0] for name in shown.stdout.split()}


def _imports(module: str) -> list[str]:
    """The dotted names that a module imports, in functions too, but not for type checking alone."""
    names: list[str] = []
    todo: list[ast.AST] = [ast.parse((HOME / f"{module}.py").read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        todo += ast.iter_child_nodes(node)
    return names


def _own(module: str) -> set[str]:
    parts = [name.split(".") for name in _imports(module) if name.startswith("denoise.")]
    return {part[1] for part in parts if part[1] in MODULES}


def _libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in _imports(module)}
