"""The settings as words of a command line, and back."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from flows import command_line
from flows.settings import Settings
from model.recipes import Recipe


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"message": "-x 'and' more ```"},
        {"workspace": Path("-w s"), "refresh": True, "seed": 7},
        {"source": "directory", "data_dir": Path("/some where"), "members": 3},
    ],
    ids=str,
)
def test_the_command_that_a_report_shows_runs_the_same_again(given: dict[str, Any]) -> None:
    settings = Settings.model_validate(given)
    _, _, *arguments = shlex.split(settings.command())
    assert command_line.parse(arguments) == settings


def readme_options() -> list[tuple[str, str]]:
    """The fields whose options the README's table has, each with its default."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.partition("## Options")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    options = [(re.findall(r"`--([a-z-]+)`", row[1]), row[2].strip(" `")) for row in rows]
    return [(name.replace("-", "_"), default) for names, default in options for name in names]


def test_readme_has_every_option_and_no_other() -> None:
    assert sorted(name for name, _ in readme_options()) == sorted(Settings.model_fields)


def test_readme_has_the_defaults() -> None:
    for name, told in readme_options():
        default = Settings.model_fields[name].default
        if default not in (None, ""):
            assert told == ("off" if default is False else str(default)), name


def test_every_field_of_a_recipe_that_is_an_option_overrides_it() -> None:
    shared = Settings.model_fields.keys() & Recipe.model_fields.keys()
    assert Settings().recipe_overrides().keys() == shared


def test_one_option_of_two_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGIT_RECOGNIZER_DATA_DIR", "~/data")
    settings = command_line.parse(["--source", "directory"])
    assert settings.data_dir == Path.home() / "data"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGIT_RECOGNIZER_WORKSPACE", "")
    assert command_line.parse([]).workspace == Path("workspace")


def test_what_is_wrong_in_the_environment_is_told_though_an_option_overrides_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIGIT_RECOGNIZER_EPOCHS", "0")
    for arguments in ([], ["--epochs", "5"]):
        with pytest.raises(SystemExit, match="2"):
            command_line.parse(arguments)
        assert capsys.readouterr().err.startswith("error: DIGIT_RECOGNIZER_EPOCHS: ")
    with pytest.raises(SystemExit, match="0"):
        command_line.parse(["--help"])


def test_a_home_folder_of_nobody_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("data-dir", "workspace"):
        with pytest.raises(SystemExit, match="2"):
            command_line.parse(["--source", "directory", f"--{option}", "~nobody-here/x"])
        said = capsys.readouterr().err
        assert said.startswith(f"error: --{option}: ~nobody-here/x: there is no such user")
