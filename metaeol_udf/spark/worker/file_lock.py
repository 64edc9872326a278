"""Locks between processes of one machine that the kernel frees when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaeol_udf.errors import EnvironmentFault

_POLL_S = 0.2
_MOST_LETTERS = 60  # of a folder: a socket's path has room for about a hundred bytes


class Lease:
    """An exclusive lock on a file. `kill -9` of the holder frees it, so no lease is ever stale.

    Attributes:
        path: The file; it stays when the lease is given back.
        way_out: What the user can do where the disk takes no lock; ends the message.
    """

    def __init__(self, path: Path, way_out: str = "a local disk takes locks") -> None:
        self.path = path
        self.way_out = way_out
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lease if nobody holds it.

        Raises:
            EnvironmentFault: The file cannot be made, or its disk takes no locks, as some network disks.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                is_ours = self._lock(fd)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise EnvironmentFault(f"cannot lock {self.path}: {error.strerror}; {self.way_out}") from None
        if not is_ours:
            os.close(fd)
            return False
        self._fd = fd
        _held.add(self)
        return True

    def _lock(self, fd: int) -> bool:
        """Lock the open file and write the process id into it; False where another process holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = os.fstat(fd).st_ino == os.stat(self.path).st_ino
        except (BlockingIOError, FileNotFoundError):
            return False  # held, or the file was removed between opening and locking it
        if is_current:
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        return is_current

    @contextmanager
    def waiting(self, timeout_s: float, meaning: str) -> Iterator[None]:
        """Hold the lease, waiting for it at most `timeout_s` seconds.

        Raises:
            EnvironmentFault: It was not free in time, for which `meaning` says what is waited for; or as in `try_acquire`.
        """
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise EnvironmentFault(f"waited {timeout_s:.0f} s for {meaning}, which process {self.holder()} holds ({self.path})")
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            self.release()

    def holder(self) -> str:
        """Process id of the holder, or of the last one."""
        try:
            return self.path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Give the lease back; nothing happens where it is not held."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            os.close(fd)


_held: weakref.WeakSet[Lease] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child shares the lock of the open file, and would keep it after its parent's death.
    for lease in list(_held):
        lease.release()


os.register_at_fork(after_in_child=_forget_in_child)


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can enter, or see that an existing one is such.

    Raises:
        EnvironmentFault: It cannot be made, is a link, belongs to another user, or others may enter it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise EnvironmentFault(f"cannot make the folder {path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise EnvironmentFault(
            f"the folder {path} must belong to user {os.getuid()} and be closed to others (mode 0700); it belongs to "
            f"{status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}: remove it or change its mode"
        )
    return path


def runtime_folder() -> Path:
    """This user's folder for leases and sockets, the same for all processes of the machine.

    In memory where there is such a place: what cleans temporary files must not remove a lease that is held. A place where another user
    has made that folder first is passed over.

    Raises:
        EnvironmentFault: No place is left.
    """
    name, refused = f"metaeol-{os.getuid()}", list[str]()
    for folder in (
        Path("/dev/shm") / name,
        Path("/run/user") / str(os.getuid()) / "metaeol",
        Path("/tmp") / name,
        home_folder() / ".metaeol",
    ):
        if folder.parent.is_dir() and len(str(folder)) <= _MOST_LETTERS:
            try:
                return private_folder(folder)
            except EnvironmentFault as error:
                refused.append(str(error))
    raise EnvironmentFault(f"there is no folder for leases and sockets of user {os.getuid()}: {'; '.join(refused)}")


def home_folder() -> Path:
    """Return the user's home as the system knows it: HOME may differ from process to process."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user without an entry
        return Path("/nonexistent")
