"""Floors: deployments -> flows -> tasks -> tasks/support -> model, never back."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["model", "tasks.support", "tasks", "flows", "deployments"]
FOLDERS = ["model", "tasks", "flows", "deployments"]
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
OUTSIDE_WORLD = {"prefect", "kaggle", "kagglesdk", "boto3", "botocore"}
OUTSIDE_WORLD |= {"requests", "urllib", "urllib3", "httpx", "http", "socket"}


def floor_of(module: str) -> int | None:
    """Index of the module's floor; None for a module that is not ours."""
    for name in sorted(FLOORS, key=len, reverse=True):
        if module == name or module.startswith(name + "."):
            return FLOORS.index(name)
    return None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; ``from a import b`` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_imports_upwards(path: Path) -> None:
    own = floor_of(module_of(path))
    assert own is not None
    for module in imports(path):
        other = floor_of(module)
        assert other is None or other <= own, f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*.py")), ids=module_of)
def test_no_stage_imports_another(path: Path) -> None:
    for module in imports(path):
        assert not module.startswith("tasks.") or module.startswith("tasks.support."), module


@pytest.mark.parametrize("path", sorted((ROOT / "model").glob("*.py")), ids=module_of)
def test_the_model_floor_knows_no_outside_world(path: Path) -> None:
    imported = set(imports(path))
    assert not {module.split(".")[0] for module in imported} & OUTSIDE_WORLD
    assert "os.environ" not in imported
    assert "os.environ" not in path.read_text()
    assert "getenv" not in path.read_text()


def test_the_flow_is_imported_without_tensorflow() -> None:
    heavy = "{'tensorflow', 'keras', 'pandas', 'seaborn', 'sklearn', 'kaggle', 'boto3'}"
    code = f"import sys, flows.mnist_flow; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
