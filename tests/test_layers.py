"""The architecture: rooms import only downwards, without circles, and keep to their libraries."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import denoise

HOME = Path(denoise.__file__).parent
# From the top down: a room imports from itself and from rooms below it.
ROOMS = (
    "__main__ terminal flags helptext typed verbs runners training reports nets output storage "
    "images errors cores __init__"
).split()
ONLY = {  # library -> the rooms that use it
    "fsspec": {"storage"},
    "ray": {"runners", "training"},
    "torch": {"nets", "training", "verbs"},
}
MODULES = sorted(
    ".".join(path.relative_to(HOME).with_suffix("").parts)
    for path in HOME.rglob("*.py")
    if path.stem != "__init__" and "models" not in path.relative_to(HOME).parts[:1]
)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_below(module: str):
    floor = ROOMS.index(_room(module))
    above = {name for name in _own(module) if ROOMS.index(_room(name)) < floor}
    assert not above, f"{module} imports {above}, which stand above it"


def test_no_modules_import_each_other_in_a_circle():
    below = {module: _own(module) - {module} for module in MODULES}
    while below:
        ready = {module for module, named in below.items() if not named & below.keys()}
        assert ready, f"a circle of imports among {sorted(below)}"
        below = {module: named for module, named in below.items() if module not in ready}


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_used_in_its_own_rooms_only(library: str):
    users = {_room(module) for module in MODULES if library in _libraries(module)}
    assert users == ONLY[library]


def test_importing_the_package_and_the_command_loads_neither_torch_nor_ray():
    loaded = _modules_after("import denoise, denoise.__main__")
    assert loaded.isdisjoint({"torch", "ray", "pyarrow", "fsspec"})


@pytest.mark.parametrize("verb", ["noise", "train", "infer", "plan", "report"])
def test_a_verb_and_its_config_are_public_names(verb: str):
    config = getattr(denoise, f"{verb.title()}Config")
    assert callable(getattr(denoise, verb)) and dataclasses.is_dataclass(config)
    assert {verb, config.__name__} <= set(denoise.__all__)


def test_no_room_is_called_like_a_public_name_which_importing_it_would_replace():
    assert set(denoise.__all__).isdisjoint(ROOMS)
    assert set(denoise.__all__) <= set(dir(denoise))


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


def _room(module: str) -> str:
    return module.partition(".")[0]


def _own(module: str) -> set[str]:
    named = {name.removeprefix("denoise.") for name in _imports(module)}
    return {one for one in MODULES if any(f"{name}.".startswith(f"{one}.") for name in named)}


def _libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in _imports(module)}
