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
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Text to search for.", show_default=False)] = None,
    overrides: Overrides = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=10_000, help="Number of texts to print.")] = 5,
    where: Where = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", metavar="FILE", help="File with one query a line, in place of QUERY; - is standard input.", show_default=False
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of vectors, where the configuration has several.", show_default=False),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Print every row. Without it each text is printed once.")] = False,
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
        typer.Argument(
            metavar="FILE", help="TSV with a column `query` and the key columns of the row that the query must find.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=10_000, help="The row must be among the first K.")] = 10,
    where: Where = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Check that queries find the rows that they must find. Exits with status 6 where one does not, for pipelines."""
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
    threshold: Annotated[float, typer.Option(help="Minimum cosine similarity of a pair, above 0 and up to 1.")] = 0.98,
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=100_000, help="Number of pairs to print, the most similar first.")] = 20,
    where: Where = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Print every pair of rows. Without it each pair of texts is printed once.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all pairs of rows. For tables of up to about 100,000 rows.")] = False,
    recall: Annotated[float, typer.Option(help="Probability of finding a pair at the threshold; without --exact.")] = 0.95,
    out: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Write all pairs to a Delta table or to a path that ends in .parquet. Prints their number."),
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
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. An address that other machines reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any free port.")] = 8000,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model name that requests may use, beside the fingerprint.", show_default=False)
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="HEX", help="Refuse to start unless the spec has this fingerprint.", show_default=False)
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that requests must send.", show_default=False)] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the token.", show_default=False)
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum number of texts in a request.")] = 2_048,
    max_waiting: Annotated[int, typer.Option(min=1, help="Maximum number of waiting texts. Further requests get status 429.")] = 8_192,
    max_connections: Annotated[int, typer.Option(min=1, help="Maximum number of open connections.")] = 256,
) -> None:
    """Serve the spec's vectors over HTTP to OpenAI-compatible clients, until SIGTERM. Needs no table."""
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
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the model within its MLflow run.")] = "metaeol",
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the model under this name in the model registry.", show_default=False)
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="MLflow experiment of the run. Default: the current one.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the model into a new folder. Logs nothing to MLflow.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    how: As = Format.TABLE,
) -> None:
    """Log the spec as an MLflow model. Its artifact holds weights, settings and code, and needs nothing else. Needs no table."""
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
    """Read the queries, and separate them from settings: with --queries the first word of the command line is a setting too."""
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
