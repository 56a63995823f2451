"""The digest of a stage's code: its own file and all of model/ that it reaches by imports."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_digest(stage_file: Path) -> str:
    """Hex sha256 of the syntax trees: docstrings count, comments and layout do not."""
    reached: dict[Path, str] = {}
    waiting = [stage_file]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached[path], imports = _read(path)
            waiting.extend(imports)
    trees = (f"{path.name} {reached[path]}" for path in sorted(reached))
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


@functools.cache
def project_digest() -> str:
    """Hex sha256 of all the code that runs in workers."""
    folders = ("model", "tasks", "flows")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    digests = (
        f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(files)
    )
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@functools.cache
def _read(path: Path) -> tuple[str, list[Path]]:
    """The file's syntax tree as text, and the files of model/ that it imports."""
    tree = ast.parse(path.read_bytes())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        for module in modules:
            file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            if module.startswith("model.") and file.is_file():
                found.append(file)
    return ast.dump(tree), found
