"""Small files in the storage of a table, through Hadoop's file systems: what a run leaves for the next one."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession


class SmallFile:
    """A file of some characters, at a path or URI that Spark understands, with the session's rights on its storage."""

    def __init__(self, spark: SparkSession, path: str) -> None:
        """Name the file; touches nothing."""
        session: Any = spark
        self._jvm = session._jvm
        self._path = self._jvm.org.apache.hadoop.fs.Path(path)
        self._files = self._path.getFileSystem(session._jsparkSession.sessionState().newHadoopConf())

    def read(self) -> str | None:
        """Read the content; None where there is no such file. A kill may have left it empty."""
        if not self._files.exists(self._path):
            return None
        stream = self._files.open(self._path)
        try:
            content: str = self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8")
            return content
        finally:
            stream.close()

    def write(self, content: str) -> None:
        """Write ASCII characters in place of what is there."""
        stream = self._files.create(self._path, True)
        try:
            stream.writeBytes(content)
        finally:
            stream.close()

    def delete(self, *, recursive: bool = False) -> None:
        """Delete the file where it is there; with `recursive` it may be a folder."""
        self._files.delete(self._path, recursive)


class HadoopFolder:
    """A folder of small files below a table's folder, in any storage that Spark's JVM reaches; a refusal is a Py4JError."""

    def __init__(self, spark: SparkSession, location: str, name: str) -> None:
        """Find the folder `name` in the folder of a table at `location`; touches nothing."""
        context: Any = spark.sparkContext
        self._path: Any = context._jvm.org.apache.hadoop.fs.Path
        self._root = self._path(location, name)
        self._files: Any = self._root.getFileSystem(context._jsc.hadoopConfiguration())

    def touch(self, path: str) -> None:
        """Write an empty file anew, with the folders above it."""
        self._files.create(self._at(path), True).close()

    def remove(self, path: str) -> None:
        """Remove a file where it is there."""
        self._files.delete(self._at(path), False)

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file or folder."""
        return bool(self._files.exists(self._at(path)))

    def names(self, path: str) -> list[tuple[str, bool]]:
        """List what is in a folder: names, and whether each is a file."""
        return [(status.getPath().getName(), status.isFile()) for status in self._files.listStatus(self._at(path))]

    def touched(self, path: str) -> int | None:
        """Read when a file was written last, by the storage's clock: only to be compared with itself. None where there is none."""
        at = self._at(path)
        return int(self._files.getFileStatus(at).getModificationTime()) if self._files.exists(at) else None

    def _at(self, path: str) -> Any:
        return self._path(self._root, path) if path else self._root
