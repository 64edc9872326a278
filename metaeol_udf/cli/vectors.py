"""Commands that use vectors: search, test and duplicates over an embedded table, serve and log-model for programs that ask."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaeol_udf.cli.arguments import As, AsJson, Conf, Overrides, Where
from metaeol_udf.cli.views import Format, emit, show_hit_lists, show_pairs
from metaeol_udf.config import load_config, load_encoder_config
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.formatting import counted, first_words, visible
from metaeol_udf.terminal import show_columns, waiting

if TYPE_CHECKING:
    from metaeol_udf.search import Hit


def search(
    conf: Conf,
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="What to look for.", show_default=False)] = None,
    overrides: Overrides = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=10_000, help="How many texts.")] = 5,
    where: Where = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help="One query a line, instead of QUERY; - reads standard input.", show_default=False),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The vectors' column, where the file has several: embedding.column=NAME.", show_default=False),
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="List every row; else each text once, as rows of one text are as near.")
    ] = False,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Print the texts of an embedded table that are nearest to a query, or to each query of a file."""
    asked, settings = _queries(query, queries, overrides or [])
    settings = settings if column is None else [*settings, f"embedding.column={column}"]
    config = load_config(conf, settings)
    with waiting("searching"):
        from metaeol_udf.search import search_table

        found = search_table(config, asked, k=k, where=where, distinct=not all_rows)
    lists = [[_plain_hit(hit) for hit in hits] for hits in found]
    by_query = [{"query": words, "hits": hits} for words, hits in zip(asked, lists, strict=True)]
    rows = [{"query": words, "rank": rank, **hit} for words, hits in zip(asked, lists, strict=True) for rank, hit in enumerate(hits, 1)]
    emit(as_json, lists[0] if queries is None else by_query, lambda console: show_hit_lists(console, asked, found), how, rows)


def _plain_hit(hit: Hit) -> dict[str, Any]:
    return {"key": hit.key, "text": hit.text, "score": hit.score, "more_rows": hit.more_rows, **(hit.place or {})}


def check(
    conf: Conf,
    queries: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A TSV with the column query and the key columns of the row it must find.", show_default=False),
    ],
    overrides: Overrides = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=10_000, help="Among how many rows it must be.")] = 10,
    where: Where = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Look whether queries find the rows that they must find, for pipelines: status 6 where one does not.

    Example: metaeol test job.yaml queries.tsv --k 5
    """
    config = load_config(conf, overrides or ())
    with waiting("searching"):
        from metaeol_udf.search.expected import check_queries, require_found

        found = check_queries(config, queries, k=k, where=where)
    rows = [(first_words(each.query, 60), " ".join(each.key.values()), *_rank_and_score(each.rank, each.score)) for each in found]
    head, title = ("query", "row", "rank", "score"), f"{config.target_table}: the first {k} rows of each query"
    values = [vars(each) for each in found]
    emit(as_json, values, lambda console: show_columns(console, title, head, rows, right={2, 3}), how, values)
    require_found(found, k)


def _rank_and_score(rank: int | None, score: float | None) -> tuple[str, str]:
    return ("missed", "") if score is None else (str(rank), f"{score:.4f}")


def duplicates(
    conf: Conf,
    overrides: Overrides = None,
    threshold: Annotated[float, typer.Option(help="Least cosine of a pair, over 0 to 1.")] = 0.98,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=100_000, help="How many pairs to print, most similar first.")] = 20,
    where: Where = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Print every pair of rows; else each pair of texts once.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all pairs: for tables of up to some 100,000 rows.")] = False,
    recall: Annotated[float, typer.Option(help="Chance that a pair at the threshold is found, without --exact.")] = 0.95,
    out: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Write all pairs to a Delta table, or a path that ends in .parquet, and print their number."),
    ] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Find pairs of rows of an embedded table whose vectors are nearly the same."""
    config = load_config(conf, overrides or ())
    from metaeol_udf.search import find_duplicates, write_duplicates

    method = "exact" if exact else "lsh"
    if out is not None:
        with waiting("comparing all rows"):
            n_pairs = write_duplicates(config, out, threshold=threshold, where=where, method=method, recall=recall)
        emit(as_json, {"pairs": n_pairs, "out": out}, lambda _: typer.echo(f"{out}: {counted(n_pairs, 'pair')}"), how)
        return
    with waiting("comparing all rows"):
        pairs = find_duplicates(config, threshold=threshold, k=k, where=where, method=method, recall=recall, distinct=not all_pairs)
    rows = [
        {
            "score": pair.score,
            "more_pairs": pair.more_pairs,
            **{f"key{side}": key for side, key in enumerate(pair.keys, 1)},
            **{f"text{side}": text for side, text in enumerate(pair.texts, 1)},
        }
        for pair in pairs
    ]
    emit(as_json, [vars(pair) for pair in pairs], lambda console: show_pairs(console, pairs), how, rows)


def serve(
    conf: Conf,
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Address to listen on. One that other machines reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="A name for requests to give beside the fingerprint.", show_default=False)] = None,
    fingerprint: Annotated[str | None, typer.Option(help="What the spec's fingerprint must be, else refuse.", show_default=False)] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that requests must show.", show_default=False)] = None,
    token_env: Annotated[str | None, typer.Option(help="Environment variable with the token.", show_default=False)] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 2_048,
    max_waiting: Annotated[int, typer.Option(min=1, help="Texts that may wait; more are answered with status 429.")] = 8_192,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 256,
) -> None:
    """Serve the spec's vectors over HTTP, as OpenAI's clients ask for them, until SIGTERM. Needs no table.

    Example: metaeol serve conf/specs/smollm2-135m.yaml --port 8000
    """
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.serving.connection import Limits
    from metaeol_udf.serving.server import EmbeddingServer, ServeOptions, run_serve

    def say(server: EmbeddingServer) -> None:
        address = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{address}:{server.port}/v1/embeddings serves model {' or '.join(map(visible, server.names))}")

    limits = Limits(max_texts=max_texts, max_waiting_texts=max_waiting, max_connections=max_connections)
    options = ServeOptions(
        host=host, port=port, name=name, fingerprint=fingerprint, token_file=token_file, token_env=token_env, limits=limits
    )
    run_serve(config, options, say)


def log_model(
    conf: Conf,
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="Of the model in its run.")] = "metaeol",
    register: Annotated[str | None, typer.Option(metavar="NAME", help="Register it in the model registry.", show_default=False)] = None,
    experiment: Annotated[str | None, typer.Option(help="Of the run; else MLflow's current one.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the model into a new folder, and log nothing.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Log the spec as an MLflow model that loads from its artifact alone: weights, settings, code. Needs no table.

    Example: metaeol log-model conf/specs/smollm2-135m.yaml --register main.search.embedder
    """
    config = load_encoder_config(conf, overrides or ())
    from metaeol_udf.serving.pyfunc import log_model, save_model

    if out is not None and (register is not None or experiment is not None):
        raise ConfigError("--out writes a folder and logs nothing: leave out --register and --experiment")
    with waiting("writing the model"):
        if out is not None:
            found = {"model_uri": str(out), "fingerprint": save_model(config, out)}
        else:
            found = log_model(config, name, registered=register, experiment=experiment)
    emit(as_json, found, lambda _: typer.echo(f"{found['model_uri']}: spec {found['fingerprint']}"), how)


def _queries(query: str | None, file: Path | None, overrides: list[str]) -> tuple[list[str], list[str]]:
    """Read the queries and tell them from settings: beside a file, the first word of the command line is a setting too."""
    if file is None:
        if query is None:
            raise ConfigError("search needs a QUERY, or --queries FILE with one query a line")
        return [query], overrides
    settings = overrides if query is None else [query, *overrides]
    try:
        lines = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--queries: {file} cannot be read as UTF-8 text ({type(error).__name__})") from None
    asked = [line.strip() for line in lines.splitlines() if line.strip()]
    if not asked:
        raise InputError(f"--queries: {file} holds no query: write one a line")
    return asked, settings
