from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metaeol_udf.encoder.checkpoint.process_memory import release_clean_pages

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages are clean")

COUNT_FAULTS = """
import ctypes, resource, sys
from metaeol_udf.encoder.checkpoint.process_memory import keep_freed_memory

c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes, c.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
is_kept = sys.argv[1] == "keep" and keep_freed_memory()

def batch():
    blocks = [c.malloc(8 << 20) for _ in range(4)]
    for block in blocks:
        c.memset(block, 1, 8 << 20)
    for block in blocks:
        c.free(block)

batch(), batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(is_kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(argument: str, **choices: str) -> tuple[bool, int]:
    """Whether freed memory was set to be kept, and page faults of ten batches that take and free 32 MiB, in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", COUNT_FAULTS, argument]
    done = subprocess.run(command, env=environment | choices, capture_output=True, text=True, check=True)
    is_kept, n_faults = done.stdout.split()
    return is_kept == "True", int(n_faults)


def resident_bytes(path: Path) -> int:
    """Of all mappings of a file in this process."""
    found, is_it = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.partition(" ")[0]:
            is_it = line.endswith(str(path))
        elif is_it and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_pages_that_were_only_read_are_given_back_and_read_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "library"
    content = bytes(range(256)) * (64 * PAGE // 256)
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        assert resident_bytes(path) == len(content)
        assert release_clean_pages() >= len(content)
        assert resident_bytes(path) == 0
        assert mapped[:] == content


@pytest.mark.parametrize("name", ["data", "model.safetensors"])
def test_what_a_process_wrote_into_its_own_copy_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"a" * 4 * PAGE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[PAGE : PAGE + 5] = b"mine!"
        release_clean_pages()
        assert mapped[PAGE - 1 : PAGE + 6] == b"amine!a"


def test_weights_that_are_mapped_for_writing_but_were_only_read_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"w" * 8 * PAGE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        assert mapped[-1] == ord("w")
        assert resident_bytes(path) > 0
        release_clean_pages()
        assert resident_bytes(path) == 0
        assert mapped[:] == b"w" * 8 * PAGE


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told what to keep")
def test_batches_reuse_what_the_ones_before_them_freed() -> None:
    _, plainly = count_faults("plainly")
    is_kept, kept = count_faults("keep")
    assert is_kept
    assert kept < plainly / 10


@pytest.mark.parametrize("choice", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}])
def test_a_choice_of_the_environment_stays(choice: dict[str, str]) -> None:
    assert count_faults("keep", **choice)[0] is False
