"""What `metaeol tune` and `metaeol curves` do: read pairs or texts, fill a bank of hidden states, search, write and report."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaeol_udf.config import EncoderConfig, GivenEncoderConfig, JobConfig, as_encoder_config
from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec, made_with, resolve_local
from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation.data import StsTask, load_tasks
from metaeol_udf.evaluation.retrieval_data import RetrievalTask
from metaeol_udf.formatting import counted
from metaeol_udf.plots import check_plot
from metaeol_udf.spec import EmbeddingSpec, before_postprocess, output_layers
from metaeol_udf.terminal import waiting
from metaeol_udf.tuning.curves import scores_by_layer, scores_by_prompts
from metaeol_udf.tuning.objectives import Objective, halves, labelled, split_in_two, texts_of
from metaeol_udf.tuning.plots import plot_curve, plot_front
from metaeol_udf.tuning.search import Candidate, Tuned, tune
from metaeol_udf.tuning.spec_file import write_spec
from metaeol_udf.tuning.state_bank import StateBank, fill_bank, subset

_FROM_DEPTH = 0.4  # lower layers hold words rather than what a text means
_DEFAULT_PAIRS = 300  # of each task: a bank takes 300 kB a text for a model of 600 dimensions
_DEFAULT_TEXTS = 500
_MOST_DOCUMENTS = 2_000  # of each retrieval set, for the same reason; those that answer a query stay


def run_tune(
    config: GivenEncoderConfig, out: Path | None, *, max_cost: float = 1.0, unlabelled: bool = False, plot: Path | None = None
) -> dict[str, Any]:
    """Choose layers, templates and post-processing, and write them as a spec.

    Args:
        config: A configuration, its path, or nested mappings. `embedding` is the starting point; `evaluation` names the pairs and the
            retrieval sets, `limit` pairs or queries of each.
        out: The spec file to write, with its other files beside it; None writes nothing.
        max_cost: The most that the choice may cost, as a multiple of the configured templates at the configured layer.
        unlabelled: Tune on the texts of the job's source table by the proxy that `objectives.halves` describes; `config`
            must be a job's then.
        plot: Where to draw the front; None draws nothing.

    Returns:
        Plain values: the baseline, the front, the choice and the files written.

    Raises:
        ConfigError: A setting, the data or an optional package is missing or wrong.
        InputError: There are too few pairs or texts.
        EnvironmentFault: A file cannot be written.
    """
    config = as_encoder_config(config)
    _check_outputs(out, plot)
    objectives = [_from_table(config)] if unlabelled else _labelled(config)
    choose_on, held_out = split_in_two(objectives, config.evaluation.seed)
    resolved = resolve_local(before_postprocess(config.embedding))
    configured = output_layers(resolved.spec.layer, resolved.n_layers)
    started = time.monotonic()
    bank = _bank(config, resolved, texts_of(objectives))
    filled = time.monotonic()
    with waiting("choosing layers, templates and post-processing"):
        tuned = tune(bank, choose_on, held_out, configured)
    best = tuned.best(max_cost)
    files = [] if out is None else _write(config.embedding, bank, best, out, tuned, held_out)
    report = {
        "model": config.embedding.model,
        "score": f"{' and '.join(dict.fromkeys(o.figure for o in objectives))} x 100, mean over {counted(len(objectives), 'task')}",
        "tasks": {o.name: len(o.firsts) for o in objectives},
        "of": " and ".join(dict.fromkeys("queries" if o.relevance is not None else "pairs" for o in objectives)),
        "pairs_chosen_on": sum(len(o.firsts) for o in choose_on),
        "pairs_held_out": sum(len(o.firsts) for o in held_out),
        "candidates": tuned.n_tried,
        "baseline": _plain(tuned.baseline, tuned.baseline, bank),
        "front": [_plain(candidate, tuned.baseline, bank) for candidate in tuned.front],
        "chosen": _plain(best, tuned.baseline, bank),
        "files": [str(file) for file in files],
        "seconds": {"embed": round(filled - started, 1), "search": round(time.monotonic() - filled, 1)},
    }
    if plot is not None:
        plot_front(report, plot)
    return report


def run_curves(config: GivenEncoderConfig, *, layers: Path | None = None, prompts: Path | None = None) -> dict[str, Any]:
    """Score the configured templates by output layer and by number of prompts, on labelled pairs, from one pass.

    Args:
        config: As for `run_tune`; `embedding` and `evaluation` are read.
        layers: Where to draw the scores by layer; None draws nothing.
        prompts: Where to draw the scores by number of prompts, at the configured layer.

    Errors are those of `run_tune`.
    """
    config = as_encoder_config(config)
    _check_outputs(None, layers, prompts)
    objectives = _labelled(config, with_queries=False)
    resolved = resolve_local(before_postprocess(config.embedding))
    configured = output_layers(resolved.spec.layer, resolved.n_layers)
    bank = _bank(config, resolved, texts_of(objectives), from_depth=0.0)
    report = {
        "model": config.embedding.model,
        "templates": config.embedding.templates,
        "tasks": {o.name: len(o.firsts) for o in objectives},
        "by_layer": scores_by_layer(bank, objectives),
        "by_prompts": scores_by_prompts(bank, objectives, configured, config.evaluation.seed),
    }
    if layers is not None:
        plot_curve(report, "by_layer", layers)
    if prompts is not None:
        plot_curve(report, "by_prompts", prompts)
    return report


def _check_outputs(out: Path | None, *plots: Path | None) -> None:
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out} must end in .yaml")
    for plot in plots:
        if plot is not None:
            check_plot(plot)


def _labelled(config: EncoderConfig, with_queries: bool = True) -> list[Objective]:
    settings = config.evaluation
    needed = "sts/NAME.tsv.gz" + (" or retrieval/NAME/corpus.jsonl" if with_queries else "")
    if settings.data is None:
        raise ConfigError(f"evaluation.data is missing: name a folder that holds {needed}, or tune with --unlabelled")
    kept: list[StsTask | RetrievalTask] = []
    for task in load_tasks(settings.data, settings.tasks, settings.limit or _DEFAULT_PAIRS, settings.seed):
        if isinstance(task, RetrievalTask) and with_queries:
            kept.append(task.keep_documents(_MOST_DOCUMENTS, settings.seed))
        elif isinstance(task, StsTask):
            kept.append(task)
    if not kept:
        what = "pairs or retrieval sets" if with_queries else "pairs"
        raise ConfigError(f"evaluation.data {settings.data!r} holds no {what}: this needs {needed}")
    return labelled(kept)


def _from_table(config: EncoderConfig) -> Objective:
    if not isinstance(config, JobConfig):
        raise ConfigError("--unlabelled tunes on the texts of a job's source table: the configuration has no source")
    from metaeol_udf.delta.fit import sample_texts

    return halves(sample_texts(config, config.evaluation.limit or _DEFAULT_TEXTS))


def _bank(config: EncoderConfig, resolved: ResolvedSpec, texts: Sequence[str], from_depth: float = _FROM_DEPTH) -> StateBank:
    spec, n_layers = resolved.spec, resolved.n_layers
    layers = sorted({*output_layers(spec.layer, n_layers), *range(math.ceil(from_depth * n_layers), n_layers + 1)})
    runtime = config.runtime
    with waiting("loading the model"):
        encoder = MetaEOLEncoder.from_spec(
            dataclasses.replace(spec, layer=tuple(layers)), device=runtime.device, max_batch_tokens=runtime.max_batch_tokens
        )
    return fill_bank(encoder, texts)


def _write(spec: EmbeddingSpec, bank: StateBank, best: Candidate, out: Path, tuned: Tuned, held_out: Sequence[Objective]) -> list[Path]:
    """Refit the chosen post-processing on all texts; the choice itself is not repeated."""
    everything = len(best.templates) == len(bank.templates.templates)
    chosen = subset(bank.templates, best.templates, f"{bank.templates.name}-{len(best.templates)}")
    resolved = dataclasses.replace(bank.encoder.spec, layer=best.layers, templates_json=chosen.to_json())
    post = best.recipe.fit(bank.mean(best.templates, best.layers), made_with(resolved, bank.n_layers))
    names = ", ".join(f"{o.name} {len(o.firsts)}" for o in held_out)
    remarks = [
        f"Written by `metaeol tune`: {best.held_out:.1f} on what was held out ({names}), where the templates",
        f"{spec.templates} at layer {spec.layer} have {tuned.baseline.held_out:.1f}; "
        f"it costs {best.cost / tuned.baseline.cost:.0%} of theirs.",
        f"Post-processing: {best.recipe}, fitted on {len(bank.texts):,} texts.",
    ]
    return write_spec(out, spec, layers=best.layers, templates=None if everything else chosen, post=post, remarks=remarks)


def _plain(candidate: Candidate, baseline: Candidate, bank: StateBank) -> dict[str, Any]:
    return {
        "templates": list(candidate.templates),
        "n_templates": len(candidate.templates),
        "layers": list(candidate.layers),
        "postprocess": str(candidate.recipe),
        "tokens_per_text": round(bank.tokens[candidate.templates], 1),
        "cost": round(candidate.cost / baseline.cost, 4),
        "chosen_on": round(candidate.chosen_on, 2),
        "held_out": None if candidate.held_out is None else round(candidate.held_out, 2),
        "held_out_scores": {name: round(score, 2) for name, score in (candidate.held_out_scores or {}).items()},
        "held_out_intervals": {
            name: None if bounds is None else [round(bound, 2) for bound in bounds]
            for name, bounds in (candidate.held_out_intervals or {}).items()
        },
    }
