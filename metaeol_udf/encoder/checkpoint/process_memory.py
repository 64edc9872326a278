"""Gives back memory that only loading needed: what was freed, and pages of libraries and of a mapped file of weights; and keeps
what batches free for the batches after them.

The pages given back are clean pages of files, so nothing is lost: whoever reads one again gets it from the system's cache of files.
The kernel would take them back by itself where memory is short, but until then they count as the process's own, and a container's
limit is set by that.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

_MAPPINGS = Path("/proc/self/smaps")
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ [1-9]\d* +(/.*)")  # of a mapped file: range, permissions, inode, path
_MADV_DONTNEED = 4  # <sys/mman.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT_BYTES = 64 * 2**20  # freed at the end of a heap before it goes back to the system
_MAPPED_BYTES = 32 * 2**20  # of a block that is mapped for itself, and unmapped when freed: the most that glibc allows
_CHOICES = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
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


def keep_freed_memory() -> bool:
    """Let the C library keep what a batch frees for the next one, of the whole process and from now on.

    Layers of long texts free tensors of megabytes, which glibc hands back to the system, and gets again, zeroed, a page at a time.

    Returns:
        Whether it was set: not where the environment has a choice of its own for glibc's allocator, nor without glibc.
    """
    set_option = getattr(_C_LIBRARY, "mallopt", None)
    if set_option is None or any(name in os.environ for name in _CHOICES):
        return False
    return bool(set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES) and set_option(_M_MMAP_THRESHOLD, _MAPPED_BYTES))


def _clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Yield begin, end and resident bytes of mapped files, no page of which is a copy of the process's own.

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
