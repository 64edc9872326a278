"""`python -m benchmarks`, which `make bench` calls: every comparison, each in a process of its own, results in `artifacts/bench`.

    python -m benchmarks [--only short,mixed,job,scaling,12,30,100,500] [--rounds N]

`python -m benchmarks.publish` makes tables and figures out of the results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import FOLDER

#: Texts of a comparison, which name its results too: contenders and rounds.
COMPARISONS = {"short": ("sorted,calls,ours", 3), "mixed": ("sorted,ours", 1), **dict.fromkeys(("12", "30", "100", "500"), ("ours", 1))}
STEPS = ("short", "mixed", "job", "scaling", "12", "30", "100", "500")  # the order is that of worth, so that an early stop leaves the most


def command(name: str, arguments: argparse.Namespace) -> list[str]:
    """The command of a step, with what the user gave in place of its own arguments."""
    options = ["--model", str(arguments.model)]
    if name in COMPARISONS:
        contenders, rounds = COMPARISONS[name]
        options += ["--texts-from", name, "--contenders", contenders, "--rounds", str(arguments.rounds or rounds)]
    elif name == "job" and arguments.rounds:
        options += ["--rounds", str(arguments.rounds)]
    module = "benchmarks.encode" if name in COMPARISONS else f"benchmarks.{name}"
    return [sys.executable, "-m", module, *options, "--json", str(arguments.folder / f"{name}.json")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(STEPS):
        parser.error(f"--only: no {', '.join(sorted(unknown))}; known: {', '.join(STEPS)}")
    failed = []
    for name in names:
        print(f"\n## {name}", flush=True)
        started = time.monotonic()
        if subprocess.run(command(name, arguments), check=False).returncode:
            failed.append(name)
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
