"""How the help of a command reads: values have names in place of types, and an example and a page stand at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

#: An example of each command, and the page below `docs/` that says more.
EXAMPLES: dict[str, tuple[str, str]] = {
    "init": ("init data/tickets.csv --out job.yaml", "tutorial.md"),
    "config": ("config job.yaml runtime.device=cpu", "reference/configuration.md"),
    "doctor": ("doctor job.yaml runtime.device=cuda", "tutorial.md"),
    "estimate": ("estimate job.yaml --executors 1,8,64 --price-per-hour 3.5", "scale.md"),
    "model prepare": ("model prepare HuggingFaceTB/SmolLM2-135M-Instruct models/smollm2", "models.md"),
    "embed": ("embed job.yaml runtime.device=cuda", "operations.md"),
    "stream": ("stream job.yaml stream.trigger='10 minutes'", "operations.md"),
    "retry": ("retry job.yaml", "operations.md"),
    "report": ("report report.json --out report.html", "report.md"),
    "status": ("status job.yaml --format json", "operations.md"),
    "rollback": ("rollback job.yaml --to 12", "operations.md"),
    "drop": ("drop job.yaml --dry-run", "operations.md"),
    "search": ('search job.yaml "where is my parcel" --k 3', "search.md"),
    "duplicates": ("duplicates job.yaml --threshold 0.99", "search.md"),
    "test": ("test job.yaml queries.tsv --k 5", "search.md"),
    "serve": ("serve conf/specs/smollm2-135m.yaml --port 8000", "serving.md"),
    "log-model": ("log-model conf/specs/smollm2-135m.yaml --register main.search.embedder", "serving.md"),
    "explain": ('explain job.yaml "The parcel came late." --top 5', "explain.md"),
    "evaluate": ("evaluate job.yaml evaluation.data=beir/scifact --against conf/specs/smollm2-135m.yaml", "quality.md"),
    "tune": ("tune job.yaml evaluation.data=beir/scifact --out conf/specs/mine.yaml", "quality.md"),
    "curves": ("curves job.yaml evaluation.data=labelled --layers layers.svg", "quality.md"),
    "fit": ("fit job.yaml --method whiten --out whiten.safetensors", "quality.md"),
    "templates list": ("templates list --model models/smollm2", "explain.md"),
    "templates check": ("templates check mine.yaml --model models/smollm2", "explain.md"),
    "templates new": ("templates new tickets --meta-task urgency --meta-task topic --out tickets.yaml", "explain.md"),
}


def epilog(name: str) -> str:
    """Write the last lines of a command's help."""
    example, page = EXAMPLES[name]
    return f"Example: metaeol {example}\n\nMore: docs/{page}"


class _WithoutTypes:
    def get_params(self, ctx: Any) -> Any:
        """Give the parameters, without types in their help."""
        return without_types(super().get_params(ctx))  # type: ignore[misc]  # of the class beside it


class Command(_WithoutTypes, TyperCommand):
    """A command whose help shows no types of Python."""


class Group(_WithoutTypes, TyperGroup):
    """A group of commands whose help shows no types of Python."""


_VALUES: dict[Any, str] = {int: "N", float: "NUMBER", Path: "FILE"}


def without_types(params: Sequence[Any]) -> Sequence[Any]:
    """Take the types out of the help of parameters: a flag takes no value, and an argument has a name that says enough."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = _no_type  # type: ignore[method-assign, assignment]
        elif param.metavar is None and param.is_flag:
            param.metavar = ""
        elif param.metavar is None:
            described = getattr(param, "type_descriptor", None)  # older typer has none
            param.metavar = None if described is None else _VALUES.get(described.annotation)  # None: the words that may stand there
    return params


def _no_type(ctx: typer.Context) -> None:
    return None
