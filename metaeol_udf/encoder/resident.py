"""Gives back memory that only loading needed: what was freed, and pages of libraries and of a mapped file of weights.

Those are clean pages of files, so nothing is lost: whoever reads one again gets it from the system's cache of files. The
kernel would take them back by itself where memory is short, but until then they count as the process's own, and a
container's limit is set by that.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

_MAPPINGS = Path("/proc/self/smaps")
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ [1-9]\d* +(/.*)")  # of a mapped file: range, permissions, inode, path
_MADV_DONTNEED = 4  # <sys/mman.h>
_C_LIBRARY = ctypes.CDLL(None, use_errno=True)


def release_clean_pages() -> int:
    """Give back what no one has written to: pages of read-only mappings, and of files of weights.

    Returns:
        Bytes that were resident and given back; 0 on systems that do not tell.
    """
    if not _MAPPINGS.is_file():
        return 0
    released = 0
    for start, stop, resident in _clean_mappings(_MAPPINGS.read_text(encoding="utf-8", errors="replace")):
        if _C_LIBRARY.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED) == 0:  # locked pages stay
            released += resident
    return released


def return_freed_memory() -> None:
    """Give freed memory back to the system: what loading frees stays with the C library otherwise, a model's size of it."""
    trim = getattr(_C_LIBRARY, "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Begin, end and resident bytes of mapped files, no page of which is a copy of the process's own.

    A library's data is private and written to, so it never is among them; neither are devices and shared memory.
    """
    mapping: re.Match[str] | None = None
    resident = 0
    for line in smaps.splitlines():
        head = _HEAD.fullmatch(line)
        if head is not None or "-" in line.partition(" ")[0]:  # the next mapping begins, of a file or of none
            mapping = head
        elif mapping is None:
            continue
        elif line.startswith("Rss:"):
            resident = int(line.split()[1]) * 1024
        elif line.startswith("Anonymous:"):
            _, _, permissions, path = mapping.groups()
            is_read_only = "w" not in permissions or path.endswith(".safetensors")
            if is_read_only and line.split()[1] == "0" and resident and not path.startswith(("/dev/", "/memfd:")):
                yield int(mapping[1], 16), int(mapping[2], 16), resident
