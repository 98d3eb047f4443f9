"""The rules of docs/architecture.md, read from the source and proven in fresh interpreters."""

import ast
import fnmatch
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mel_ray"
POOL_ROOMS = ("rollout", "rewards", "mel", "policy")
BELOW_POOLS = {"records", "config", "data", "weights", "actors"}
MAY = {
    "records": set(),
    "registry": {"records"},  # the registries of the rooms, and what they are made of
    "config": {"records", "registry"},
    "actors": {"records", "config"},
    "data": {"records", "config"},
    "weights": {"records", "config", "actors"},
    **dict.fromkeys(POOL_ROOMS, BELOW_POOLS),
    "run": {"records", "config"},
    "evaluation": {"records", "config", "run"},
    "driver": {"records", "config", "policy", "mel"},  # their pure functions alone
    "wiring": {*BELOW_POOLS, *POOL_ROOMS, "driver", "evaluation", "run"},
    "cli": {*BELOW_POOLS, *POOL_ROOMS, "driver", "wiring", "evaluation", "run"},
}
COMMANDS = ("main.py", "evaluate.py", "report.py", "experiences.py", "rewards/score.py", "data/inspect.py")
LIBRARIES = {
    "ray": ("*_pool.py", "actors/*.py", "driver/wiring.py", "run/ray_sink.py"),
    "vllm": (
        "rollout/vllm_engine.py",
        "rollout/engine_hosts.py",
        "weights/receiver.py",
        "weights/*/receiver.py",
        "weights/nccl/sender.py",
    ),
    "deepspeed": (
        "policy/loading.py",
        "policy/sequence_parallel.py",
        "policy/zero3.py",
        "policy/snapshots.py",
        "policy/consolidate.py",
        "policy/universal.py",
    ),
    "wandb": ("run/wandb_sink.py",),
}
SHARED_NAMES = {"__init__.py", "registry.py", "sender.py", "receiver.py", *(Path(name).name for name in COMMANDS)}


def modules() -> dict[str, Path]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(file: Path) -> set[str]:
    """Every module a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {name: imported(file) for name, file in MODULES.items()}
GRAPH = {name: {target for target in found if target in MODULES} - {name, "mel_ray"} for name, found in IMPORTS.items()}


def path_of(module: str) -> str:
    return MODULES[module].relative_to(PACKAGE).as_posix()


def closure(module: str) -> set[str]:
    seen, todo = set(), [module]
    while todo:
        for target in GRAPH[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def made_of_registries() -> set[str]:
    """The registries and the modules of their own rooms that they are made of."""
    registries = {name for name in MODULES if name.endswith(".registry")}
    parts = set()
    for registry in registries:
        room = registry.rsplit(".", 1)[0]
        parts |= {name for name in closure(registry) if name.startswith(f"{room}.")}
    return registries | parts


REGISTRIES = made_of_registries()


def room_of(module: str) -> str:
    path = path_of(module)
    if path in COMMANDS:
        return "cli"
    if path == "driver/wiring.py":
        return "wiring"
    return path.split("/")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "mel_ray"])
def test_a_room_imports_only_what_it_may(module):
    room = room_of(module)
    for target in GRAPH[module]:
        other = room_of(target)
        is_registry = room in ("config", "data") and target in REGISTRIES and target.endswith(".registry")
        assert other == room or other in MAY[room] or is_registry, f"{module} imports {target}"


@pytest.mark.parametrize("module", sorted(REGISTRIES))
def test_registries_are_light_and_know_records_and_their_room_alone(module):
    for target in GRAPH[module]:
        assert room_of(target) in ("records", room_of(module)), f"{module} imports {target}"
    assert not IMPORTS[module] & {"torch", "ray", "vllm", "deepspeed", "transformers"}


def test_the_driver_reaches_actors_through_ports_only():
    for module in MODULES:
        if room_of(module) == "driver":
            for target in closure(module):
                path = path_of(target)
                assert not path.endswith(("_pool.py", "zero3.py")), f"{module} reaches {target}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if path_of(name) in COMMANDS))
def test_a_command_that_stands_in_another_room_is_thin(module):
    assert all(room_of(target) == "cli" for target in GRAPH[module]), GRAPH[module]
    assert len(MODULES[module].read_text().splitlines()) <= 20


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_the_named_files_import_a_heavy_library(library):
    allowed = LIBRARIES[library]
    users = [name for name, found in IMPORTS.items() if any(one.split(".")[0] == library for one in found)]
    assert users
    for name in users:
        assert any(fnmatch.fnmatch(path_of(name), pattern) for pattern in allowed), f"{name} imports {library}"


def test_there_are_no_import_cycles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for target in GRAPH[module]:
            if not module.startswith(f"{target}."):  # a package's own __init__
                visit(target, (*path, module))
        done.add(module)

    for module in GRAPH:
        visit(module, ())


def is_heavy(module: str) -> bool:
    return any(fnmatch.fnmatch(path_of(module), pattern) for allowed in LIBRARIES.values() for pattern in allowed)


def test_everything_else_imports_without_the_heavy_libraries():
    own = sorted(name for name in MODULES if not is_heavy(name))
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in LIBRARIES)
    code = f"import sys\n{blocked}" + "".join(f"import {name}\n" for name in own)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_driver_process_starts_light():
    code = (
        "import sys, mel_ray.main, mel_ray.driver.wiring\n"
        "print([m for m in ('torch', 'vllm', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_files_stay_small():
    sizes = sorted(len(file.read_text().splitlines()) for file in MODULES.values())
    assert sizes[len(sizes) // 2] < 150
    assert sizes[-1] <= 400


def test_no_file_name_means_two_things():
    counts = Counter(file.name for file in MODULES.values() if file.name not in SHARED_NAMES)
    assert {name: count for name, count in counts.items() if count > 1} == {}


def test_the_repository_names_no_registry_host_or_machine_path():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ""}
    forbidden = ("find-links =", "extra-index-url =", "/opt/", "/root/")
    for name in files:
        file = ROOT / name
        if file.suffix in suffixes and file.exists() and file != Path(__file__):
            text = file.read_text(errors="ignore")
            assert not [word for word in forbidden if word in text], name


def test_lines_of_the_documents_fit_the_page():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert len(line) <= 110, f"{page.name}:{number} has {len(line)} columns"
