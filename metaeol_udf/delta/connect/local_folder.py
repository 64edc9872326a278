"""Files of this machine's own, for a server of Spark Connect that runs where its client does or shares a disk with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LocalFolder:
    """A folder of small files below a table's folder, where this process sees the table's folder.

    Every method raises OSError where it does not: a file system that only the server reaches is closed to a client.
    """

    def __init__(self, location: str, name: str) -> None:
        """Name the folder `name` in the folder of a table at `location`, a path or a URI; touches nothing."""
        parts = urlsplit(location)
        self._table = Path(unquote(parts.path)) if parts.scheme == "file" else Path(location) if not parts.scheme else None
        self._name = name

    def touch(self, path: str) -> None:
        """Write an empty file anew, with the folders above it."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")

    def remove(self, path: str) -> None:
        """Remove a file where it is there."""
        with suppress(FileNotFoundError):
            (self._folder / path).unlink()

    def exists(self, path: str = "") -> bool:
        """Tell whether there is such a file or folder."""
        return (self._folder / path).exists()

    def names(self, path: str = "") -> list[tuple[str, bool]]:
        """List what is in a folder: names, and whether each is a file."""
        return [(entry.name, entry.is_file()) for entry in (self._folder / path).iterdir()]

    def touched(self, path: str) -> int | None:
        """Read when a file was written last, in nanoseconds; None where there is none."""
        try:
            return (self._folder / path).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    @property
    def _folder(self) -> Path:
        if self._table is None or not (self._table / "_delta_log").is_dir():
            raise PermissionError("the storage of the table is not one of this machine")
        return self._table / self._name
