"""Files are written whole or not at all, by nobody's link, and for their owner alone where they name keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.files import check_replaceable, replace_file


def test_a_link_in_the_way_is_replaced_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("keep")
    (tmp_path / "report.json").symlink_to("other.txt")
    (tmp_path / f".report.json.{os.getpid()}.part").symlink_to("other.txt")  # a name that could be guessed once
    replace_file(tmp_path / "report.json", b"{}")
    assert (tmp_path / "other.txt").read_text() == "keep"
    assert not (tmp_path / "report.json").is_symlink()
    assert (tmp_path / "report.json").read_text() == "{}"


def test_a_private_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "page.html", b"x", private=True)
        replace_file(tmp_path / "report.json", b"x")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("page.html", "report.json")] == [0o600, 0o644]


def test_what_cannot_be_written_leaves_nothing_and_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for act in (check_replaceable, lambda path, setting: replace_file(path, b"x", setting=setting)):
        for path in (tmp_path / "folder", tmp_path / "file" / "report.json"):
            with pytest.raises(EnvironmentFault, match=r"^runtime\.report: cannot write"):
                act(path, setting="runtime.report")
    check_replaceable(tmp_path / "new" / "report.json", setting="runtime.report")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "new"]
