"""Where Kaggle's credentials come from: looked for as the client does, and never shown."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from model.errors import PermanentError

NEW_TOKEN = "Make a new API token at https://www.kaggle.com/settings/api"


def credentials_form(secret_block: str | None = None) -> str | None:
    """The form of the credentials found, None for none; shows no value, does not ask Kaggle."""
    if secret_block:
        return f"the Prefect Secret block {secret_block!r}"
    return token_form() or key_form() or oauth_form()


def none_found() -> str:
    """The sentence that no credentials were found, with what there is of incomplete ones."""
    path = key_file()
    user, key = _user_and_key()
    part = ""
    if path.exists() and not _json(path):
        part = f": {path} is not a JSON object"
    elif user or key:
        there, missing = ("user name", "key") if user else ("key", "user name")
        part = f": there is a {there} (KAGGLE_USERNAME, KAGGLE_KEY or {path}) but no {missing}"
    return f"No Kaggle credentials were found{part}."


def token_form() -> str | None:
    """Where an access token was found; None if nowhere."""
    in_notebook = os.environ.get("KAGGLE_API_V1_TOKEN")
    notebook = {"KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL"} <= os.environ.keys()
    if notebook and in_notebook and _text(Path(in_notebook)):
        return "KAGGLE_API_V1_TOKEN"
    token = os.environ.get("KAGGLE_API_TOKEN")
    if token:
        with contextlib.suppress(OSError, ValueError):  # it is a token or the path of one
            if Path(token).exists() and not _text(Path(token)):
                return None
        return "KAGGLE_API_TOKEN"
    names = ("~/.kaggle/access_token", "~/.kaggle/access_token.txt")
    return next((name for name in names if _text(Path(name).expanduser())), None)


def key_form() -> str | None:
    """Where a user name and an API key were found; the environment goes before the file."""
    if not all(_user_and_key()):
        return None
    both_set = {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
    return "KAGGLE_USERNAME and KAGGLE_KEY" if both_set else "kaggle.json"


def check_sendable(form: str | None) -> None:
    """PermanentError if what was found in that form cannot be part of a request."""
    if form == "KAGGLE_API_TOKEN":
        token = os.environ[form]
        try:
            if Path(token).exists():
                return  # the client strips what a file holds
        except (OSError, ValueError):
            raise PermanentError(
                f"{form} holds neither an access token nor the path of one.", f"{NEW_TOKEN}."
            ) from None
        check_characters({form: token})
    elif form == key_form():
        user, key = _user_and_key()
        check_characters({f"user name ({form})": user, f"key ({form})": key})


def check_characters(credentials: dict[str, Any]) -> None:
    """PermanentError for a character that no request takes: secrets often end in a line feed."""
    for name, value in credentials.items():
        text = str(value or "")
        if not (text.isascii() and text.isprintable()):
            raise PermanentError(
                f"The Kaggle credential {name} holds a character that no credential has, "
                "perhaps a line feed at its end.",
                f"Remove it. {NEW_TOKEN} if that is no help.",
            )


def _user_and_key() -> tuple[str | None, str | None]:
    """The environment goes before the file."""
    content = _json(key_file())
    user = os.environ.get("KAGGLE_USERNAME", content.get("username"))
    return user, os.environ.get("KAGGLE_KEY", content.get("key"))


def oauth_form() -> str | None:
    """``kaggle auth login``, if it has left a token; else None."""
    found = _json(Path("~/.kaggle/credentials.json").expanduser()).get("refresh_token")
    return "kaggle auth login" if found else None


def key_file() -> Path:
    """kaggle.json, in the folder where the client looks for it."""
    chosen = os.environ.get("KAGGLE_CONFIG_DIR")
    folder = Path(chosen or "~/.kaggle").expanduser()
    if not chosen and sys.platform.startswith("linux") and not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "kaggle"
    return folder / "kaggle.json"


def from_block(name: str) -> dict[str, str]:
    """A Prefect Secret block's credentials, as the client's configuration.

    They stay in this process's memory: an environment variable would reach child processes.
    """
    from prefect.blocks.system import Secret

    how = (
        f'Save one in Python: Secret(value={{"username": ..., "key": ...}}).save("{name}"), '
        "or with an access token as its value."
    )
    try:
        value: Any = Secret.load(name).get()  # type: ignore[union-attr]
    except ValueError:
        raise PermanentError(f"There is no Prefect Secret block {name!r}.", how) from None
    if isinstance(value, str) and value:
        return {"token": value, "auth_method": "ACCESS_TOKEN"}
    if isinstance(value, dict) and value.get("username") and value.get("key"):
        return {"username": value["username"], "key": value["key"], "auth_method": "LEGACY_API_KEY"}
    raise PermanentError(f"The Prefect Secret block {name!r} holds no credentials.", how)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
