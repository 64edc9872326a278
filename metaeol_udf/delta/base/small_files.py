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
