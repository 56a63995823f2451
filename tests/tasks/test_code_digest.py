"""A stage's code is its own file and all of model/ that it reaches, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.support import code_digest


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage that reaches model/direct.py, and through it model/indirect.py."""
    (tmp_path / "model").mkdir()
    (tmp_path / "stage.py").write_text("def stage():\n    from model import direct\n")
    (tmp_path / "model/direct.py").write_text("import model.indirect\nX = 1\n")
    (tmp_path / "model/indirect.py").write_text("from model.direct import X\n")  # a circle
    (tmp_path / "model/unrelated.py").write_text("X = 1\n")
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    return tmp_path


def digest(tree: Path) -> str:
    code_digest._read.cache_clear()
    return code_digest.code_digest(tree / "stage.py")


@pytest.mark.parametrize("name", ["stage.py", "model/direct.py", "model/indirect.py"])
def test_code_that_is_reached_counts(tree: Path, name: str) -> None:
    before = digest(tree)
    path = tree / name
    path.write_text(path.read_text() + "Y = 2\n")
    assert digest(tree) != before


def test_code_that_is_not_reached_does_not_count(tree: Path) -> None:
    before = digest(tree)
    (tree / "model/unrelated.py").write_text("X = 2\n")
    assert digest(tree) == before


def test_comments_and_layout_do_not_count(tree: Path) -> None:
    before = digest(tree)
    (tree / "model/direct.py").write_text("# why\nimport model.indirect\n\nX    = 1  # one\n")
    assert digest(tree) == before


@pytest.mark.parametrize("name", ["model/new.py", "tasks/support/new.py", "flows/new.py"])
def test_all_code_that_workers_run_is_in_the_projects_digest(tree: Path, name: str) -> None:
    before = code_digest.project_digest.__wrapped__()
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).touch()
    assert code_digest.project_digest.__wrapped__() != before
