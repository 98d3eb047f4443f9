"""Layers, cycles and import weight, read from the source and proven in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mel_ray"
LAYERS = {"records": 0, "config": 1, "rl": 2, "mel": 2, "rewards": 2, "data": 2, "observe": 2, "driver": 3,
          "engines": 4, "pools": 5, "main": 6}  # fmt: skip
OBSERVE_MAY = {"records"}
DRIVER_MAY = {"records", "config", "rl", "mel", "driver"}
HEAVY = ("ray", "vllm", "deepspeed", "wandb")
LIGHT_PACKAGES = ("records", "config", "rl", "mel", "rewards", "data", "driver")


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(file: Path) -> set[str]:
    """Modules of mel_ray that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name in modules()}


GRAPH = {name: imports_of(file) - {name} for name, file in modules().items()}


def package_of(module: str) -> str:
    part = module.split(".")[1] if "." in module else ""
    return part if part in LAYERS else "main"


@pytest.mark.parametrize("module", sorted(name for name in GRAPH if name != "mel_ray"))
def test_a_file_imports_only_from_layers_to_its_left(module):
    package = package_of(module)
    for target in GRAPH[module] - {"mel_ray"}:
        other = package_of(target)
        if other == package:
            continue
        assert LAYERS[other] < LAYERS[package], f"{module} imports {target}"
        if package == "observe":
            assert other in OBSERVE_MAY, f"{module} imports {target}"
        if package == "driver":
            assert other in DRIVER_MAY, f"{module} imports {target}"
        if package == "pools":
            assert other != "driver", f"{module} imports {target}"


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


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_light_packages_import_nothing_heavy(package):
    names = [name for name in GRAPH if package_of(name) == package and not name.endswith(("pretrain", "tokenizer"))]
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    code = f"import sys\n{blocked}" + "".join(f"import {name}\n" for name in sorted(names))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_driver_process_starts_light():
    code = (
        "import sys, mel_ray.cli.train, mel_ray.driver.wiring\nprint([m for m in ('torch','vllm','deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_files_stay_small():
    sizes = sorted(len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py"))
    assert sizes[len(sizes) // 2] < 150
    assert sizes[-1] <= 400


def test_the_repository_names_no_registry_host_or_machine_path():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.split()
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ""}
    forbidden = ("find-links =", "extra-index-url =", "/opt/", "/root/")
    for name in files:
        file = ROOT / name
        if file.suffix in suffixes and file.exists() and file != Path(__file__):
            text = file.read_text(errors="ignore")
            assert not [word for word in forbidden if word in text], name
