"""The architecture: every module imports only what stands before it, and keeps to its libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import denoise

HOME = Path(denoise.__file__).parent
# folder -> its modules; a module imports from folders above its own, and what precedes it there
LAYERS = {
    "pixels": "kinds exif writers planes chunks tiff decoders image noise metrics tiles",
    "display": "views progress drawings page",
    "places": "uris disk pages errors stores tree storage embedded inputs references tables "
    "manifest lock output",
    "network": "model package denoiser portable",
    "flow": "pairs denoising waiting runtime attempts shards",
    "findings": "tally summary gallery",
    "learning": "census roster patches supply start recorder judge batches optimizer loop card "
    "checkpoints group worker",
    "": "report bulk training noising inference plan demo doctor export flags __main__",
}
ORDER = [
    f"{folder}.{name}".lstrip(".") for folder, names in LAYERS.items() for name in names.split()
]
ONLY = {  # library -> the modules that use it
    "fsspec": "places.stores",
    "ray": "flow.waiting flow.runtime flow.attempts flow.shards learning.supply learning.group "
    "learning.worker training",
    "torch": "network.model network.package network.denoiser network.portable learning.start "
    "learning.recorder learning.judge learning.batches learning.optimizer learning.loop "
    "learning.card learning.checkpoints learning.group learning.worker plan doctor",
}
MODULES = sorted(
    ".".join(path.relative_to(HOME).with_suffix("").parts)
    for path in HOME.rglob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_before_it(module: str):
    place = ORDER.index(module)
    later = {name for name in _own(module) if ORDER.index(name) >= place}
    assert not later, f"{module} imports {later}, which stand after it"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_used_in_its_own_places_only(library: str):
    users = {module for module in MODULES if library in _libraries(module)}
    assert users == set(ONLY[library].split())


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
    path = HOME.joinpath(*module.split(".")).with_suffix(".py")
    todo: list[ast.AST] = [ast.parse(path.read_text())]
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
    named = {name.removeprefix("denoise.") for name in _imports(module)}
    return {one for one in MODULES if any(f"{name}.".startswith(f"{one}.") for name in named)}


def _libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in _imports(module)}
