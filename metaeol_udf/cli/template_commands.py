"""`metaeol templates …`: list the built-in sets, check a set, draft a set. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from metaeol_udf.cli.arguments import As, AsJson
from metaeol_udf.cli.command_help import Command, Group, epilog
from metaeol_udf.cli.views import Format, emit, show_template_check, show_template_sets
from metaeol_udf.errors import ConfigError
from metaeol_udf.files import replace_file
from metaeol_udf.formatting import counted, visible

if TYPE_CHECKING:
    from metaeol_udf.evaluation import StsTask
    from metaeol_udf.prompts import TemplateSet
    from metaeol_udf.prompts.checks import SetCheck
    from metaeol_udf.prompts.drafts import MetaTaskForm

templates_app = typer.Typer(help="List, check and draft template sets.", cls=Group, no_args_is_help=True)

Model = Annotated[str | None, typer.Option(metavar="DIR", help="Model folder; its tokenizer counts tokens.", show_default=False)]
TextTokens = Annotated[int, typer.Option(min=1, max=100_000, help="Length of the example text in tokens, before clean-up.")]


@templates_app.command("list", cls=Command, epilog=epilog("templates list"))
def list_sets(model: Model = None, text_tokens: TextTokens = 32, as_json: AsJson = False, how: As = Format.TABLE) -> None:
    """List the built-in template sets; with --model also their cost in tokens."""
    from metaeol_udf.prompts import TemplateSet
    from metaeol_udf.prompts.templates import builtin_names

    checks = _check_all([TemplateSet.load(name) for name in builtin_names()], model, text_tokens)
    rows = [found.to_dict() for found in checks]
    emit(as_json, rows, lambda console: show_template_sets(console, checks), how, rows)


@templates_app.command(cls=Command, epilog=epilog("templates check"))
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML file of a template set, or a built-in name.", show_default=False)],
    model: Model = None,
    text_tokens: TextTokens = 32,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Check a template set: placeholders, endings, shared parts; with --model also its tokens. Exits with status 2 if it has a problem."""
    from metaeol_udf.prompts import TemplateSet

    (found,) = _check_all([TemplateSet.load(file)], model, text_tokens)
    emit(as_json, found.to_dict(), lambda console: show_template_check(console, found), how)
    if found.problems:
        raise typer.Exit(ConfigError.exit_code)


@templates_app.command(cls=Command, epilog=epilog("templates new"))
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the set.", show_default=False)],
    meta_task: Annotated[
        list[str], typer.Option(metavar="WORDS", help="Question about a text, such as 'urgency'. May be repeated.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The YAML file to write.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B,C", help="Possible answers to the meta-task at the same place.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="Model folder, to count tokens, draft and score.", show_default=False)
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Let the model propose other words for each meta-task.")] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Score the set on labelled pairs: columns sentence1, sentence2, score.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Device of the model: auto, cpu, cuda or cuda:N.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Draft a template set for your own meta-tasks and check it; with --pairs also score it."""
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; --force replaces it")
    if model is None and (draft or pairs is not None):
        raise ConfigError(f"{'--draft' if draft else '--pairs'} needs a model: --model DIR")
    forms = _fill_forms(meta_task, options or [])
    from metaeol_udf.evaluation.data import read_pairs
    from metaeol_udf.prompts.drafts import HEADER, draft_templates

    scored = None if pairs is None else read_pairs(pairs)  # before a model is loaded in vain
    templates = draft_templates(name, _propose(forms, model, device) if draft and model is not None else forms)
    replace_file(out, (HEADER + templates.to_yaml()).encode())
    (found,) = _check_all([templates], model, 32)
    score = None if scored is None or model is None else _score(templates, model, scored, device)

    def show(console: Console) -> None:
        typer.echo(f"{out}: {counted(len(templates.templates), 'template')}")
        show_template_check(console, found)
        if score is not None:
            typer.echo(f"  Spearman x100 on {pairs}: {score:.2f}")

    emit(as_json, {"file": str(out), **found.to_dict(), "score": score}, show, how)


def _check_all(sets: list[TemplateSet], model: str | None, text_tokens: int) -> list[SetCheck]:
    from metaeol_udf.prompts.checks import check_templates

    if model is None:
        return [check_templates(templates) for templates in sets]
    from metaeol_udf.explain.language_model import open_tokenizer

    tokenizer, is_known = open_tokenizer(model)
    return [check_templates(templates, tokenizer, n_text_tokens=text_tokens, may_cut=is_known) for templates in sets]


def _fill_forms(meta_tasks: list[str], options: list[str]) -> list[MetaTaskForm]:
    from metaeol_udf.prompts.drafts import MetaTaskForm

    if len(options) > len(meta_tasks):
        raise ConfigError(f"--options belong to a --meta-task each, found {len(options)} for {len(meta_tasks)}")
    words = [tuple(word.strip() for word in line.split(",") if word.strip()) for line in options]
    words += [()] * (len(meta_tasks) - len(options))
    return [MetaTaskForm(meta_task, some) for meta_task, some in zip(meta_tasks, words, strict=True)]


def _propose(forms: list[MetaTaskForm], model: str, device: str) -> list[MetaTaskForm]:
    """Add the model's own words to forms. Where the model has none, say so and leave the form unchanged."""
    import dataclasses

    from metaeol_udf.explain.language_model import load_language_model
    from metaeol_udf.explain.proposals import propose_aspects
    from metaeol_udf.spec import EmbeddingSpec

    language_model = load_language_model(EmbeddingSpec(model=model), device)
    proposed = []
    for form in forms:
        aspects = propose_aspects(language_model, form.name)
        said = ", ".join(aspects) if aspects else "nothing usable; the form's own word stays"
        typer.echo(visible(f"the model's words for {form.name!r}: {said}"), err=True)
        proposed.append(dataclasses.replace(form, aspects=aspects))
    return proposed


def _score(templates: TemplateSet, model: str, pairs: StsTask, device: str) -> float:
    """Score a template set: Spearman's correlation x100 of the pairs' cosines with their scores."""
    from metaeol_udf.encoder import MetaEOLEncoder
    from metaeol_udf.evaluation import score_sts

    vectors = MetaEOLEncoder.from_pretrained(model, templates=templates, device=device).encode(pairs.texts)
    n_pairs = len(pairs.gold)
    return score_sts(vectors[:n_pairs], vectors[n_pairs:], pairs.gold).all
