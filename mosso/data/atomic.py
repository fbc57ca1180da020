"""Output files that are whole or not there: written under a temporary name, moved into place at the end."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, with the same ending; moved to ``path`` when the block succeeds.

    When the block raises, the temporary file is removed and whatever was at ``path`` stays as it was. A symbolic link
    is followed, so it stays a link. A device or pipe, such as /dev/null, cannot be replaced and is written directly.

    Raises:
        FileNotFoundError: the folder does not exist; it is not created.
        ValueError: ``path`` is a folder.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {target.parent} does not exist, create it first.")
    if target.exists() and not target.is_file():
        yield target
        return
    # the name keeps its end, because writers choose format and compression by it
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:  # an interrupt as well: nothing half-written stays behind
        temporary.unlink(missing_ok=True)
        raise
