"""The handshake: what must be the same on the driver and on every worker, or vectors would differ in silence."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from importlib import metadata

import metaeol_udf
from metaeol_udf.errors import EnvironmentFault

_PACKAGES = ("torch", "transformers", "tokenizers")


def own_versions() -> dict[str, str]:
    """Versions of this process; nothing is imported for it. A package that is not installed is left out: drivers need no torch."""
    found = {"Python": ".".join(map(str, sys.version_info[:2])), "metaeol-udf": metaeol_udf.__version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]  # what follows a plus is the build, not the release
        except metadata.PackageNotFoundError:
            continue
    return found


def differing(drivers: Mapping[str, str]) -> list[str]:
    """Name what has a differing version on this worker, in the order of the driver's; what either lacks does not differ."""
    workers = own_versions()
    return [name for name, version in drivers.items() if name in workers and workers[name] != version]


def check_versions(drivers: Mapping[str, str]) -> None:
    """Compare this worker's versions with the driver's.

    Raises:
        EnvironmentFault: A version differs.
    """
    workers, host = own_versions(), socket.gethostname()
    differences = [f"{name} is {drivers[name]} on the driver and {workers[name]} on {host}" for name in differing(drivers)]
    if differences:
        raise EnvironmentFault(
            f"{'; '.join(differences)}: install the same versions on all machines (and let spark.pyspark.python name that Python)"
        )
