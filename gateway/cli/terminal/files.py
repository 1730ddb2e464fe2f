"""Files that a command writes as a whole, or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write(
    path: Path, content: str, mode: int = 0o600, accept: Callable[[Path], object] = lambda _: None
) -> None:
    """Write a file with its present mode and owner, or a new one with `mode`.

    `accept` looks at the new file before it takes the place of the present one; what it raises leaves that
    one as it is. Raises OSError.
    """
    place = path.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    before = place.stat() if place.exists() else None
    # It may have secrets: until it has its mode, only this user can read it.
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        if before is not None:
            os.chown(new, before.st_uid, before.st_gid)
        new.chmod(mode if before is None else before.st_mode & 0o7777)
        accept(new)
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
