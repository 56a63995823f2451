"""Whether a process can work for a run: what it has, and where it keeps files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.support import workers, workspace


def test_a_worker_that_trains_for_another_run_is_fit(tmp_path: Path) -> None:
    with (
        workspace.opened(tmp_path / "ours"),
        workers.place() as place,
        workspace.opened(tmp_path / "theirs"),
    ):
        assert place.unfit() is None


def test_a_worker_with_other_software_says_which(tmp_path: Path) -> None:
    with workspace.opened(tmp_path / "ours"), workers.place() as place:
        for name, ours in place.software.items():
            other = replace(place, software={**place.software, name: "other"})
            assert other.unfit() == f"has {name} {ours[:12]}, the flow other"


def test_a_worker_whose_environment_names_another_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with workspace.opened(tmp_path / "ours"), workers.place() as place:
        monkeypatch.setattr(workers, "OWN_WORKSPACE", "ours")
        assert place.unfit() is None
        monkeypatch.setattr(workers, "OWN_WORKSPACE", "theirs")
        assert "does not work in the flow's" in (place.unfit() or "")
