"""A stage's result is reused when, and only when, all that it depends on is the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from model import processor
from model.errors import PermanentError, TransientError
from tasks.support import caching, workspace
from tasks.support.records import File, Record

pytestmark = pytest.mark.usefixtures("prefect_server")

calls: list[str] = []


class Made(Record):
    file: File


@caching.stage()
def make(text: str) -> Made:
    calls.append(text)
    with workspace.current().temporary_folder() as folder:
        path = folder / "made.txt"
        path.write_text(text)
        return Made(file=File.keep(path))


@flow
def making(root: Path, text: str, refresh: bool) -> Made:
    with caching.kept_under(root, refresh=refresh, started=0.0):
        return make(text)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Made]:
    calls.clear()

    def run(text: str = "a", *, root: str = "first", refresh: bool = False) -> Made:
        return making(tmp_path / root, text, refresh)

    return run


def test_reused_for_the_same_input_only(run: Callable[..., Made]) -> None:
    assert run("a") == run("a")
    run("b")
    assert calls == ["a", "b"]


def test_refresh_makes_it_again(run: Callable[..., Made]) -> None:
    run()
    run(refresh=True)
    assert calls == ["a", "a"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("x"),
        lambda path: path.write_text("longer"),
        lambda path: path.write_text(""),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["deleted", "altered", "longer", "cut", "a folder"],
)
def test_a_harmed_file_is_made_again(
    run: Callable[..., Made], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    made = run()
    harm(tmp_path / "first" / made.file.path)
    run()
    assert calls == ["a", "a"]
    assert (tmp_path / "first" / made.file.path).read_text() == "a"


def test_a_damaged_result_is_made_again(run: Callable[..., Made], tmp_path: Path) -> None:
    run()
    (result,) = (tmp_path / "first/cache/results").iterdir()
    result.write_text(result.read_text()[:-40])
    run()
    assert calls == ["a", "a"]


def test_an_altered_result_is_made_again(run: Callable[..., Made], tmp_path: Path) -> None:
    run()
    (result,) = (tmp_path / "first/cache/results").iterdir()
    text = result.read_text()
    assert "__class__" in text
    result.write_text(text.replace("__class__", "__clasr__"))  # JSON still, but of no record
    run()
    assert calls == ["a", "a"]


def test_a_result_that_the_disk_cannot_read_is_made_again(
    run: Callable[..., Made], tmp_path: Path
) -> None:
    run()
    (result,) = (tmp_path / "first/cache/results").iterdir()
    result.unlink()
    result.symlink_to("/proc/self/mem")  # whose first byte is an input/output error
    with pytest.raises(OSError, match="Input/output error"):
        result.read_bytes()
    run()
    assert calls == ["a", "a"]


def test_a_folder_in_a_results_place_gives_way(run: Callable[..., Made], tmp_path: Path) -> None:
    run()
    (result,) = (tmp_path / "first/cache/results").iterdir()
    result.unlink()
    result.mkdir()
    run()
    assert calls == ["a", "a"]
    run()
    assert calls == ["a", "a"]


def test_a_result_that_cannot_be_kept_is_used_and_made_again(
    run: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(workspace, "write_text", fail)
        made = run()
    assert "No space left on device" in caplog.text
    assert run() == made
    assert calls == ["a", "a"]


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (TransientError("It is busy.", "Wait."), 4),
        (PermanentError("It is wrong.", "Correct it."), 1),
        (RuntimeError("It is a fault of ours."), 1),
    ],
    ids=["transient", "permanent", "unforeseen"],
)
def test_only_what_may_go_better_is_tried_again(
    opened_workspace: workspace.Workspace, error: Exception, tries: int
) -> None:
    calls.clear()

    @caching.stage(cached=False)
    def fail() -> None:
        calls.append("tried")
        raise error

    @flow
    def failing() -> None:
        fail.with_options(retry_delay_seconds=0, retry_jitter_factor=0)()

    with pytest.raises(type(error), match="It is"):
        failing()
    assert len(calls) == tries


def test_what_the_disk_refuses_is_an_error_that_says_what_to_do(
    opened_workspace: workspace.Workspace,
) -> None:
    @caching.stage(cached=False)
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")

    @flow
    def filling() -> None:
        fill()

    with pytest.raises(PermanentError, match=r"^some/file: No space left on device\. Free up"):
        filling()


def test_the_clock_does_not_matter(run: Callable[..., Made], tmp_path: Path) -> None:
    run()
    for path in (tmp_path / "first").rglob("*"):
        os.utime(path, (2**32, 2**32))  # as where the clock was set back since
    run()
    assert calls == ["a"]


def test_code_versions_data_and_machine_are_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def key(code: str = "c", data: str = "d", machine: bool = False) -> str:
        return caching.beyond_inputs(code, ("numpy",), lambda inputs: data, machine, {})

    keys = [key(), key(code="other"), key(data="other"), key(machine=True)]
    monkeypatch.setattr(processor, "identity", lambda: {"processor": "another"})
    keys.append(key(machine=True))
    assert keys[0] == key()  # the machine counts only where it is asked for
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "other")
    keys.append(key(machine=True))
    monkeypatch.setattr(caching, "version_of", lambda name: "another")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_moved_workspace_keeps_its_cache(run: Callable[..., Made], tmp_path: Path) -> None:
    run()
    shutil.move(tmp_path / "first", tmp_path / "second")
    run(root="second")
    assert calls == ["a"]
    assert not (tmp_path / "first").exists()


def test_what_the_flow_raises_makes_no_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def failing() -> None:
        with caching.kept_under(tmp_path / "first", refresh=False, started=0.0):
            raise ValueError("no")

    monkeypatch.setattr(workspace, "_current", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no"):
        failing()
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert not list((tmp_path / "first/cache/results").iterdir())


def test_a_full_disk_is_named_where_numpy_has_only_words(
    opened_workspace: workspace.Workspace,
) -> None:
    @caching.stage(cached=False)
    def save() -> None:
        raise OSError("842016 requested and 827264 written")

    @flow
    def saving() -> None:
        save()

    with pytest.raises(PermanentError, match=r"workspace: the disk is full\. Free up"):
        saving()
