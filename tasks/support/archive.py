"""The competition's zip: its three files are extracted by name, and nothing else is accepted."""

from __future__ import annotations

import errno
import shutil
import zipfile
import zlib
from pathlib import Path

from model.errors import PermanentError

MEMBERS = ("train.csv", "test.csv", "sample_submission.csv")
MOST_BYTES = 256 << 20  # of one member; the competition's largest has 77 MB
MOST_TIMES = 100  # the highest compression ratio of a member; the digits reach 9
SMALL = 1 << 20  # bytes; a smaller member is never a zip bomb
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)


class DamagedError(PermanentError):
    """The zip was truncated or altered in transit; another copy may be intact."""


def extract(archive: Path, folder: Path) -> None:
    """Extract exactly ``MEMBERS`` into ``folder``, in constant memory.

    Raises:
        DamagedError: it is not a zip, or its bytes do not match its checksums.
        PermanentError: a member is missing, unexpected, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            check(archive, file.infolist())
            for name in MEMBERS:
                with file.open(name) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)  # at most the size that it states
    except (*DAMAGE, OSError) as error:
        for name in MEMBERS:
            (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek before 0
            raise
        raise DamagedError(
            f"{archive.name} is no whole zip file ({error}).",
            "Download it again from the competition's data page.",
        ) from error


def check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip with other contents than the competition's, before a byte is written."""
    names = [member.filename for member in members]
    for member in members:
        name, size = member.filename, member.file_size
        if name not in MEMBERS:
            leaves = name.startswith(("/", "\\")) or ".." in Path(name.replace("\\", "/")).parts
            raise refused(
                archive, f"{name!r}, which {'leaves' if leaves else 'is unexpected in'} its folder"
            )
        if size > MOST_BYTES or (size > SMALL and size > MOST_TIMES * member.compress_size):
            raise refused(archive, f"{name} of {size:,} bytes, which is absurdly large")
        if member.flag_bits & 0x1 or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise refused(archive, f"{name} encrypted or in an unusual compression")
    for name in MEMBERS:
        if names.count(name) != 1:
            raise refused(archive, f"{name} {names.count(name)} times instead of once")


def refused(archive: Path, what: str) -> PermanentError:
    """The error for a zip that is not the competition's."""
    return PermanentError(
        f"{archive.name} holds {what}; nothing was extracted from it.",
        f"Use the competition's own zip: it holds exactly {', '.join(MEMBERS)}.",
    )
