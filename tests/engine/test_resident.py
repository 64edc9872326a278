from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from metaeol_udf.encoder.resident import release_clean_pages

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages are clean")


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
