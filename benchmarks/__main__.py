"""`python -m benchmarks`, which `make bench` calls: every comparison, each in a process of its own, results in `artifacts/bench`.

    python -m benchmarks [--only short,mixed,job,scaling,12,30,100,500,others] [--rounds N] [--llama-python PATH] [--distribatch DIR]

Without --only all are run; `others`, which has llama.cpp and distribatch in it, only where one of them is named.
`python -m benchmarks.publish` makes tables and figures out of the results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import FOLDER

_OURS = "ours"

#: Name of the results, module, arguments; the order is that of worth, so that an early stop leaves the most.
STEPS: dict[str, tuple[str, list[str]]] = {
    "short": ("benchmarks.encode", ["--texts-from", "short", "--rounds", "3", "--contenders", "sorted,calls," + _OURS]),
    "mixed": ("benchmarks.encode", ["--texts-from", "mixed", "--rounds", "1", "--contenders", "sorted," + _OURS]),
    "job": ("benchmarks.job", []),
    "scaling": ("benchmarks.scaling", []),
    "12": ("benchmarks.encode", ["--texts-from", "12", "--rounds", "1", "--contenders", _OURS]),
    "30": ("benchmarks.encode", ["--texts-from", "30", "--rounds", "1", "--contenders", _OURS]),
    "100": ("benchmarks.encode", ["--texts-from", "100", "--rounds", "1", "--contenders", _OURS]),
    "500": ("benchmarks.encode", ["--texts-from", "500", "--rounds", "1", "--contenders", _OURS]),
    "others": ("benchmarks.encode", ["--texts-from", "short", "--rounds", "1", "--contenders", "llama,distribatch,ours-spark," + _OURS]),
}


def command(name: str, arguments: argparse.Namespace) -> list[str]:
    """The command of a step, with what the user gave in place of its own arguments."""
    module, own = STEPS[name]
    if arguments.rounds is not None and "--rounds" in own:
        at = own.index("--rounds")
        own = [*own[:at], *own[at + 2 :]]
    found = [sys.executable, "-m", module, "--model", str(arguments.model), *own, "--json", str(arguments.folder / f"{name}.json")]
    if module == "benchmarks.encode":
        found += ["--llama-python", arguments.llama_python] if arguments.llama_python else []
        found += ["--distribatch", arguments.distribatch] if arguments.distribatch else []
    if arguments.rounds is not None and module != "benchmarks.scaling":
        found += ["--rounds", str(arguments.rounds)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--only")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--llama-python")
    parser.add_argument("--distribatch", metavar="DIR")
    arguments = parser.parse_args()
    has_others = bool(arguments.llama_python or arguments.distribatch)
    names = arguments.only.split(",") if arguments.only else [name for name in STEPS if name != "others" or has_others]
    unknown = set(names) - set(STEPS)
    if unknown:
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
