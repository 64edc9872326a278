"""Commands that measure or improve vectors: evaluate, tune, curves, fit, explain."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaeol_udf.cli.arguments import As, AsJson, Conf, Overrides
from metaeol_udf.cli.views import Format, emit, show_words
from metaeol_udf.config import EncoderConfig, JobConfig, load_config, load_encoder_config
from metaeol_udf.errors import ConfigError, InputError, nearest_word
from metaeol_udf.terminal import waiting

if TYPE_CHECKING:
    from metaeol_udf.evaluation import RetrievalTask

_TITLES = 1_000  # rows of a set that is made of a table


def evaluate(
    conf: Conf,
    overrides: Overrides = None,
    spark: Annotated[bool, typer.Option("--spark", help="Embed on Spark's executors, as the job does.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of rows of each task; overrides evaluation.limit.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores into this .svg, .png or .pdf file.", show_default=False)] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Another configuration or spec to compare with. May be repeated.", show_default=False),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Score without labels: how well this column of the source finds the text of its own row. A proxy for real queries.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Score the vectors on labelled data (evaluation.data): sentence similarity, classification, retrieval. Only --title needs a table."""
    config = load_encoder_config(conf, overrides or ())
    if limit is not None:
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, limit=limit))
    from metaeol_udf.quality.command import run_comparison, run_evaluate
    from metaeol_udf.quality.report import score_rows, show_comparison, show_evaluation

    tasks = None if title is None else [_own_task(config, title)]
    if against:
        if plot is not None:
            raise ConfigError("--plot draws one configuration: leave out --against")
        others = {str(path): load_encoder_config(path).embedding for path in against}
        reports = run_comparison(config, {str(conf): config.embedding, **others}, with_spark=spark, tasks=tasks)
        rows = [{"configuration": name, **row} for name, each in reports.items() for row in score_rows(each)]
        emit(as_json, reports, lambda console: show_comparison(console, reports), how, rows)
        return
    with waiting("embedding in Spark and scoring") if spark else nullcontext():
        report = run_evaluate(config, with_spark=spark, plot=plot, tasks=tasks)
    title = f"{report['model']}: templates {report['templates']}, layer {report['layer']}"
    emit(as_json, report, lambda console: show_evaluation(console, title, report), how, score_rows(report))


def _own_task(config: EncoderConfig, title: str) -> RetrievalTask:
    """Make a retrieval set from `evaluation.limit` rows of the source, from 1,000 where the limit is not set."""
    if not isinstance(config, JobConfig):
        raise ConfigError("--title takes rows of a job's source table: the configuration has no source")
    with waiting("reading titles and texts"):
        from metaeol_udf.delta.fit import sample_titles
        from metaeol_udf.evaluation.retrieval_data import make_retrieval

        rows = sample_titles(config, title, config.evaluation.limit or _TITLES)
    task = make_retrieval(f"{title} to {' and '.join(config.source.text_columns)}, a proxy", *rows)
    if len(task.documents) < 2:
        raise InputError(f"--title {title}: the source has fewer than two rows with a title and a different text")
    return task


def tune(
    conf: Conf,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Spec file to write, such as conf/specs/mine.yaml. Without it the choice is only printed.", show_default=False),
    ] = None,
    max_cost: Annotated[float, typer.Option(min=0, help="Maximum cost relative to the configuration; 1.0: the same cost.")] = 1.0,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Tune on the texts of the source table, without labels.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw quality against cost into this file.", show_default=False)] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Search for better layers, templates and post-processing on labelled pairs or queries (evaluation.data), and write a spec."""
    config = load_config(conf, overrides or ()) if unlabelled else load_encoder_config(conf, overrides or ())
    from metaeol_udf.tuning.command import run_tune
    from metaeol_udf.tuning.terminal_report import candidate_rows, show_tuning

    report = run_tune(config, out, max_cost=max_cost, unlabelled=unlabelled, plot=plot)
    emit(as_json, report, lambda console: show_tuning(console, report), how, candidate_rows(report))


def curves(
    conf: Conf,
    overrides: Overrides = None,
    layers: Annotated[Path | None, typer.Option(help="Draw scores by output layer into this file.", show_default=False)] = None,
    prompts: Annotated[Path | None, typer.Option(help="Draw scores by number of prompts into this file.", show_default=False)] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Score each output layer and each number of prompts on labelled pairs (evaluation.data)."""
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.tuning.command import run_curves
    from metaeol_udf.tuning.terminal_report import curve_rows, show_curves

    report = run_curves(config, layers=layers, prompts=prompts)
    emit(as_json, report, lambda console: show_curves(console, report), how, curve_rows(report))


def fit(
    conf: Conf,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Safetensors file to write.", show_default=False)] = ...,  # type: ignore[assignment]  # typer's word for required
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="mean, standardize, remove_top, whiten, or unembedding (needs no texts).")
    ] = "mean",
    components: Annotated[
        int | None,
        typer.Option(min=1, help="Number of directions to remove (remove_top) or to keep (whiten, unembedding).", show_default=False),
    ] = None,
    shrinkage: Annotated[
        float, typer.Option(min=0, max=1, help="whiten only: 0 makes all directions equally wide, 1 leaves their widths.")
    ] = 0.1,
    texts: Annotated[int, typer.Option(min=100, help="Maximum number of distinct texts to fit on.")] = 20_000,
    data: Annotated[
        bool, typer.Option("--data", help="Fit on the texts of evaluation.data, in this process, in place of the source table.")
    ] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Fit post-processing on the texts of the source table, without labels, in one Spark pass; or on the model alone."""
    from metaeol_udf.encoder.vectors.postprocess import METHODS, UNEMBEDDING

    known = (*METHODS, UNEMBEDDING)
    if method not in known:  # before the texts are embedded in vain
        raise ConfigError(f"--method must be one of {', '.join(known)}, found {method!r}{nearest_word(method, known)}")
    if method == UNEMBEDDING:
        from metaeol_udf.tuning.fit_on_head import run_fit_head

        found = load_encoder_config(conf, overrides or ())
        with waiting("reading the model's head"):
            report = run_fit_head(found, out, n_components=components)
    elif data:
        from metaeol_udf.tuning.fit_on_data import run_fit_data

        found = load_encoder_config(conf, overrides or ())
        report = run_fit_data(found, out, method, n_components=components, shrinkage=shrinkage, n_texts=texts)
    else:
        config = load_config(conf, overrides or ())
        with waiting("embedding texts and fitting"):
            from metaeol_udf.delta.fit import run_fit

            report = run_fit(config, out, method, n_components=components, shrinkage=shrinkage, n_texts=texts)
    line = f"{report['file']}: {method}, {report['hidden_size']} dimensions to {report['dim']}; set {report['setting']}"
    emit(as_json, report, lambda _: typer.echo(line), how)


def explain(
    conf: Conf,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to explain.", show_default=False)],
    overrides: Overrides = None,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="Number of words to show per template.")] = 10,
    layer: Annotated[
        str, typer.Option(metavar="LAYER", help="Layer to read words from: an index, or a fraction of the depth; -1: the last one.")
    ] = "-1",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the words into a file.", show_default=False)] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Show the most probable next words of each template for a text: what its embedding holds."""
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.explain.next_words import explain_text
    from metaeol_udf.explain.plot import draw_explanation
    from metaeol_udf.plots import check_matplotlib

    if plot is not None:
        check_matplotlib()  # before a model is loaded in vain
    asked = _parse_layer(layer)
    with waiting("loading the model and reading its next words"):
        explanation = explain_text(config.embedding.of_one_passage(), text, device=config.runtime.device, top=top, layer=asked)
    if plot is not None:
        draw_explanation(explanation, plot)
    emit(as_json, explanation.to_dict(), lambda console: show_words(console, explanation), how, explanation.rows())


def _parse_layer(layer: str) -> int | float:
    try:
        return int(layer) if layer.lstrip("-").isdecimal() else float(layer)
    except ValueError:
        raise ConfigError(f"--layer must be an integer index or a fraction of depth from 0.0 to 1.0, found {layer!r}") from None
