from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console

from metaeol_udf import __version__, cli, config, versions
from metaeol_udf.care import DropItem
from metaeol_udf.cli import views
from metaeol_udf.cli.app import app, run_guarded
from metaeol_udf.cli.arguments import complete_override
from metaeol_udf.cli.views import show_report
from metaeol_udf.errors import BudgetError, ConfigError, ConflictError, QualityError, TerminatedError
from metaeol_udf.search import Hit
from metaeol_udf.search.table_duplicates import DuplicatePair
from metaeol_udf.terminal import is_quiet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def conf(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A job whose settings are fine and whose table is not there."""
    path = tmp_path / "job.yaml"
    source = {"table": str(tmp_path / "table"), "key": ["id"]}
    path.write_text(yaml.safe_dump({"source": source, "embedding": {"model": str(tiny_model_dir)}}))
    return path


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and the one line on standard error of a command that must print nothing else."""
    status = cli.run([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return status, captured.err


def test_the_version_names_all_that_matters() -> None:
    done = subprocess.run([sys.executable, "-m", "metaeol_udf.cli", "--version"], capture_output=True, text=True, check=True, timeout=60)
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(lines) == ["metaeol-udf", "Python", "Java", "pyspark", "delta-spark", "torch", "transformers", "pyarrow", "pandas"]
    assert lines["metaeol-udf"] == __version__
    assert lines["pyspark"] == metadata.version("pyspark")
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    assert f'"{lines["Java"]}' in java
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    assert lines["torch"].startswith(f"{metadata.version('torch')} ({build}, ")


def test_versions_load_nothing_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys, metaeol_udf.versions as v; v.versions(); print({'torch', 'pyspark', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert done.stdout == "set()\n"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert versions.java_version() is None
    for name in ("nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert versions.gpu_count(tmp_path) == 2


@pytest.mark.parametrize("command", ["embed", "retry", "stream", "status", "doctor"])
def test_a_command_says_its_first_words_before_it_imports_spark(command: str, conf: Path) -> None:
    script = """
import logging, sys
from metaeol_udf.cli.app import run
class First(logging.Handler):
    def emit(self, record):
        print(record.getMessage(), *{"pyspark", "pandas", "torch"} & set(sys.modules), sep=":")
        raise KeyboardInterrupt
logging.getLogger("metaeol_udf.terminal").addHandler(First())
sys.exit(run(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", script, command, conf], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    words = "looking at the tables" if command == "status" else "starting"
    assert (done.stdout, done.returncode) == (f"{words}\n", 130), done.stderr


def completed(shell: str, *words: str, folder: Path) -> list[str]:
    """What the shell's own completion script is told for a command line whose last word is being written."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "_METAEOL_COMPLETE": f"complete_{shell}"}
    line = " ".join(("metaeol", *words))
    env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words)), "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-m", "metaeol_udf.cli"], env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done.stdout.split()


def test_the_shell_completes_commands_files_settings_and_values(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    for name in ("job.yaml", "job.txt", "jobs.yml", ".hidden.yaml"):
        (tmp_path / name).touch()
    assert completed("bash", "emb", folder=tmp_path) == ["embed"]
    assert completed("bash", "embed", "jo", folder=tmp_path) == ["job.yaml", "jobs.yml"]
    assert completed("bash", "embed", "co", folder=tmp_path) == ["conf/"]
    assert completed("bash", "embed", "job.yaml", "runtime.report", folder=tmp_path) == ["runtime.report=", "runtime.report_page="]
    assert completed("bash", "embed", "job.yaml", "runtime.device=cpu", "quality.ga", folder=tmp_path) == ["quality.gate="]
    shown = completed("zsh", "embed", "job.yaml", "embedding.dtype=f", folder=tmp_path)
    assert "float32" in " ".join(shown)
    assert "bfloat16" not in " ".join(shown)


def test_every_setting_can_be_completed_and_read_back() -> None:
    blocks = yaml.safe_load((ROOT / "conf/embed.yaml").read_text(encoding="utf-8"))
    names = [f"{section}.{key}" for section, block in blocks.items() for key in block]
    assert sorted([*names, "embedding.spec"]) == sorted(config.setting_names())
    assert complete_override("sour") == [
        f"source.{name}=" for name in ("table", "path", "format", "options", "query", "key", "key_columns", "text", "format_text", "where")
    ]
    assert complete_override("quality.gate=") == ["quality.gate=true", "quality.gate=false"]
    assert "embedding.templates=metaeol-fast" in complete_override("embedding.templates=metaeol")
    for name, words in config.CHOICES.items():
        for word in words:
            place = "source.path=a/b" if name == "source.format" else "source.table=a/b"
            config.parse_config(config.read_overrides([place, "target.table=v/t", "source.key=id", "embedding.model=m", f"{name}={word}"]))


def test_a_script_for_the_shell_can_be_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert cli.run(["--show-completion", "bash"]) == 0
    assert "_METAEOL_COMPLETE=complete_bash" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embd", "x"], "Did you mean 'embed'?"),
        (["embed", "x", "--dryrun"], "--dry-run"),
        (["templates", "lst"], "Did you mean 'list'?"),
    ],
)
def test_a_command_or_option_that_is_misspelt_names_the_nearest(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_method_or_type_of_weights_that_is_misspelt_names_the_nearest(
    conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, line = refused(capfd, "fit", conf, "--out", tmp_path / "x.safetensors", "--method", "whitn")
    assert status == 2
    assert "did you mean 'whiten'?" in line
    status, line = refused(capfd, "model", "prepare", "a", tmp_path / "b", "--dtype", "fp16")
    assert status == 2
    assert "did you mean 'float16'?" in line


def test_results_are_plain_in_a_pipe_and_without_colour_where_none_is_wanted() -> None:
    colours = "\x1b["
    for env in ({}, {"NO_COLOR": "1"}):
        done = subprocess.run(
            [sys.executable, "-m", "metaeol_udf.cli", "templates", "check", "metaeol"],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert "templates" in done.stdout
        assert colours not in done.stdout
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=100, no_color=True)
    show_report(console, "t", {"rows_selected": 3})
    assert "rows selected" in file.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", file.getvalue())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        *(
            [command]
            for command in (
                "embed",
                "stream",
                "retry",
                "estimate",
                "config",
                "status",
                "drop",
                "rollback",
                "doctor",
                "search",
                "duplicates",
                "explain",
                "evaluate",
                "tune",
                "curves",
                "fit",
                "init",
                "report",
                "test",
                "serve",
                "log-model",
            )
        ),
        ["model", "prepare"],
        *(["templates", command] for command in ("list", "check", "new")),
    ],
)
def test_every_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*arguments, "--help"]) == 0
    assert "Usage: metaeol" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["embed"], ["no-such-command"], ["search", "CONF", "query", "--k", "0"], ["model", "prepare", "SRC"]]
)
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime.max_batch_token=1", "did you mean 'max_batch_tokens'"),
        ("runtime.wave_rows=0", "runtime.wave_rows must be a positive integer"),
        ("runtime.device=tpu", "auto, cpu, cuda or cuda:N"),
        ("embedding.dtype=float64", "embedding.dtype must be one of"),
        ("embedding.layer=99", "the model has 2 layers"),
        ("embedding.templates=nope", "no built-in set and no file 'nope'"),
        ("embedding.model=no/where", "no such folder"),
        ("stream.triger=x", "did you mean 'trigger'"),
        ("stream.trigger=hourly", "stream.trigger must be availableNow or an interval such as 30 seconds, found 'hourly'"),
        ("stream.start=yesterday", "stream.start must be earliest, latest or a version"),
        ("stream.max_files=0", "stream.max_files must be a positive integer"),
        ("evaluation.limit=0", "evaluation.limit must be null or a positive integer, found 0"),
        ("evaluation.seed=-1", "evaluation.seed must be an integer from 0"),
        ("evaluation.resamples=many", "evaluation.resamples must be an integer, found 'many'"),
        ("evaluation.inner_folds=1", "evaluation.inner_folds must be an integer from 2"),
        ("evaluation.tasks=3", "evaluation.tasks must be a list of names"),
        ("evaluation.task=[a]", "did you mean 'tasks'"),
        ("runtime.prometheus=metrics.txt", "runtime.prometheus must be a path that ends in .prom"),
        ("runtime.mlflow=3", "runtime.mlflow must be true, false or the name of an experiment"),
        ("quality.gate=maybe", "quality.gate must be true or false, found 'maybe'"),
        ("quality.sample=49", "quality.sample must be an integer from 50 to 20000"),
        ("quality.neighbours=0", "quality.neighbours must be a positive integer"),
        ("quality.min_agreement=20", "quality.min_agreement must be a number from 0 to 1, found 20"),
        ("quality.max_anisotropy_rise=-1", "quality.max_anisotropy_rise must be a number from 0 to 2"),
        ("sourse.table=x", "did you mean 'source'"),
        ("nonsense", "must have the form section.key=value"),
        ("device=cpu", "did you mean 'runtime.device=cpu'?"),
        ("runtime.device=cpuu", "did you mean 'cpu'?"),
        ("embedding.dtype=fp32", "did you mean 'float32'?"),
        ("embedding.quantization=int9", "did you mean 'int8'?"),
        ("embedding.templates=metaol", "did you mean 'metaeol'?"),
        ("stream.trigger=availablenow", "did you mean 'availableNow'?"),
        ("runtime.report_page=page.txt", "runtime.report_page must be a path that ends in .html"),
    ],
)
def test_a_wrong_setting_exits_2_with_one_line(conf: Path, override: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, line = refused(capfd, "embed", conf, override)
    assert status == 2
    assert message in line


def test_a_missing_configuration_exits_2(capfd: pytest.CaptureFixture[str]) -> None:
    status, line = refused(capfd, "embed", "no-such.yaml")
    assert status == 2
    assert "no-such.yaml" in line


def test_damaged_model_files_exit_5(conf: Path, tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model_dir.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[:-1])
    status, line = refused(capfd, "embed", conf, f"embedding.model={broken}")
    assert status == 5
    assert str(broken) in line


@pytest.mark.parametrize(
    ("error", "status"),
    [(BudgetError("too many"), 3), (ConflictError("too late"), 4), (QualityError("worse"), 6), (TerminatedError("ended"), 143)],
)
def test_each_error_has_its_status(error: Exception, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    assert cli.run_guarded(command) == status
    assert capfd.readouterr().err == f"metaeol: {error}\n"


def test_an_unexpected_error_exits_1_and_says_where_its_trace_is(capfd: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise RuntimeError("cannot convert 'a secret text' to Arrow\nsecond line")

    assert cli.run_guarded(command) == 1
    message = capfd.readouterr().err
    assert message.startswith("metaeol: unexpected RuntimeError\n")
    assert "Traceback" not in message
    assert "a secret text" not in message
    trace = Path(message.split("stack trace are in ")[1].split(";")[0])
    assert "second line" in trace.read_text()
    assert trace.stat().st_mode & 0o077 == 0
    trace.unlink()


def test_debug_prints_the_trace(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise RuntimeError("broken")

    monkeypatch.setitem(os.environ, "METAEOL_DEBUG", "1")
    assert cli.run_guarded(command) == 1
    assert "Traceback" in capfd.readouterr().err


def test_an_interrupt_exits_130_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    assert cli.run_guarded(command) == 130
    assert capfd.readouterr().err == ""


def test_a_drafted_template_set_is_told_to_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    assert cli.run(["templates", "new", "mine", "--meta-task", "urgency", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["score"], found["n_templates"]) == (str(out), None, 2)  # a meta-task is asked in two ways


def test_a_log_has_a_line_for_what_takes_long_and_quiet_has_none(tmp_path: Path) -> None:
    """In processes of their own, because logging is set up once."""
    script = "import sys\nfrom metaeol_udf.cli.app import start_logging\nfrom metaeol_udf.terminal import counting, set_quiet, waiting\n"
    script += "quiet = sys.argv[1] == 'quiet'\nstart_logging(quiet=quiet)\nset_quiet(quiet)\nwith waiting('loading the model'):\n    pass\n"
    script += "with counting('embedding', 2) as advance:\n    advance(2)\n"
    for how, lines in (("quiet", []), ("plain", ["loading the model", "embedding 2 texts", "2 of 2 texts"])):
        done = subprocess.run([sys.executable, "-c", script, how], cwd=ROOT, timeout=60, check=True, capture_output=True, text=True)
        assert done.stdout == ""
        logged = [line.split("metaeol_udf.terminal: ")[1].split(", ")[0] for line in done.stderr.splitlines()]
        assert logged == lines


def test_a_log_as_json_has_an_object_a_line_with_the_run_s_fields_and_the_last_error() -> None:
    """In a process of its own whose standard error is a terminal: lines stand there all the same."""
    script = """
import sys, threading
from contextvars import copy_context
from metaeol_udf.cli.app import run_guarded, start_logging
from metaeol_udf.errors import InputError
from metaeol_udf.terminal import log_fields, waiting
def command():
    with log_fields(table="a\\x1b[2J", column="embedding", run_id="r1"):
        with waiting("publishing"):
            pass
        thread = threading.Thread(target=copy_context().run, args=(lambda: waiting("in a thread").__enter__(),))
        thread.start(); thread.join()
    raise InputError("no such\\ncolumn")
start_logging(as_json=True)
sys.exit(run_guarded(command))
"""
    reader, writer = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stderr=writer, cwd=ROOT, timeout=60, check=False)
    os.close(writer)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
        while part := os.read(reader, 10_000):
            shown += part
    os.close(reader)
    assert done.returncode == 2
    lines = [json.loads(line) for line in shown.decode().splitlines()]
    assert [line["message"] for line in lines] == ["publishing", "in a thread", "metaeol: no such\ncolumn"]
    assert [line.get("table") for line in lines] == ["a\x1b[2J"] * 2 + [None]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "ERROR"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)


def test_a_log_as_text_says_the_time_in_utc() -> None:
    script = "from metaeol_udf.cli.app import start_logging\nfrom metaeol_udf.terminal import waiting\nstart_logging()\n"
    script += "with waiting('loading'):\n    pass\n"
    env = {**os.environ, "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, timeout=60, check=True, capture_output=True, text=True)
    found = re.fullmatch(r"(\S+Z) INFO metaeol_udf.terminal: loading\n", done.stderr)
    assert found is not None
    logged = datetime.strptime(found.group(1), "%Y-%m-%dT%H:%M:%S%z")
    assert abs((datetime.now(timezone.utc) - logged).total_seconds()) < 60


def test_waiting_is_shown_on_a_terminal() -> None:
    """In a process of its own, whose standard error is a terminal."""
    script = "import time\nfrom metaeol_udf.terminal import waiting\nwith waiting('working hard'):\n    time.sleep(0.5)"
    reader, writer = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stderr=writer, cwd=ROOT, timeout=60, check=True)
    os.close(writer)
    assert done.returncode == 0
    shown = os.read(reader, 10_000)
    os.close(reader)
    assert b"working hard" in shown


def test_what_a_row_holds_is_shown_and_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """Sequences that clear the screen, make a link, write the clipboard, and turn the direction of a line."""
    evil = "a \x1b[2J \x1b]8;;http://example.org\x1b\\link \u202e b \x9b31m \x07"
    out = io.StringIO()
    for is_terminal in (True, False):
        console = Console(file=out, force_terminal=is_terminal, width=140)
        views.show_hits(console, evil, [Hit(key={"id": evil}, text=evil, score=0.9)])
        views.show_pairs(console, [DuplicatePair(keys=({"id": evil}, {"id": "b"}), texts=(evil, evil), score=0.9)])
        views.show_figures(console, evil, {"key": evil})
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # rich's own colours
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\u202e"}
    assert "\\x1b[2J" in shown
    assert "\\u202e" in shown

    def refuse() -> None:
        raise ConfigError(f"unknown key {evil}")

    assert run_guarded(refuse) == 2
    assert not set(capsys.readouterr().err) & {"\x1b", "\x9b", "\x07", "\u202e"}


def test_equal_texts_are_shown_once() -> None:
    console = Console(file=io.StringIO(), width=140)
    hits = [Hit({"id": n}, text, 1 - n / 10, more_rows=more) for n, text, more in ((0, "a text", 2), (1, "another", 0), (3, None, 0))]
    views.show_hits(console, "q", hits)
    pairs = [
        DuplicatePair(keys=({"id": one}, {"id": other}), texts=(text, last), score=1.0)
        for one, other, text, last in ((1, 2, "same", "same"), (1, 3, "same", "same"), (2, 3, "same", "same"))
    ]
    pairs.append(DuplicatePair(({"id": 4}, {"id": 5}), ("one", "other"), 1.0, more_pairs=1))
    views.show_pairs(console, pairs)
    assert [line.rstrip().split(maxsplit=1) for line in console.file.getvalue().splitlines()] == [
        ['"q"'], ["1.0000", "0  (and 2 more rows) a text"], ["0.9000", "1  another"], ["0.7000", "3"],
        ["1.0000", "1  same"], ["2", "(the same text)"], ["3", "(the same text)"], ["1.0000", "4  (and 1 more pair) one"], ["5", "other"],
    ]  # fmt: skip


def test_a_list_is_csv_or_json_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["templates", "list", "--format", "csv"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert cli.run(["templates", "list", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line.split(",")[0] for line in lines] == [each["name"] for each in found]
    assert head.startswith("name,")
    assert cli.run(["templates", "list", "--format", "xml"]) == 2


def test_each_command_with_a_result_for_programs_gives_it_as_csv_too() -> None:
    def commands(command: Any) -> Iterator[Any]:
        for each in getattr(command, "commands", {}).values():
            yield from commands(each)
        yield command

    both = [
        {"--json", "--format"} & {name for each in command.params for name in each.opts}
        for command in commands(typer.main.get_command(app))
    ]
    assert sum(map(bool, both)) > 15
    assert all(len(found) in (0, 2) for found in both)


def test_values_of_several_columns_are_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    configs = [config.parse_config({"source": {"table": "t", "key": ["id"]}, "embedding": {"model": "m", "column": name}}) for name in "ab"]
    found = [{"rows": {"done": 1}, "failures": []}, {"rows": {"done": 2}, "failures": [3]}]
    views.emit_each(False, configs, found, lambda console, title, each: None, views.Format.CSV)
    assert capsys.readouterr().out.splitlines() == [
        "column,name,value", "a,rows.done,1", "a,failures,[]", "b,rows.done,2", "b,failures,[3]"
    ]  # fmt: skip


def test_nobody_is_asked_where_nobody_can_answer(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, line = refused(capfd, "drop", conf)
    assert status == 2
    assert "give --yes, or --dry-run for the list alone" in line


@pytest.mark.parametrize(("is_done", "words"), [(None, "what is dropped"), (True, "dropped"), (False, "nothing was dropped of this")])
def test_what_is_dropped_is_listed(is_done: bool | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    views.show_drop([DropItem("target", "a/vectors", "a table of 4 rows")], "a/vectors: column embedding", is_done=is_done)
    printed = capsys.readouterr().out
    assert printed.startswith(f"a/vectors: column embedding: {words}\n")
    assert "target  a/vectors  a table of 4 rows" in printed
    assert ("until VACUUM" in printed) == bool(is_done)


def test_a_state_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"run_id": "20261127T1-ab", "ended": "2026-11-27 12:00:00", "spec": "0123", "versions": [1, 3]}
    state = {
        "rows_selected": 5, "rows_done": 3, "rows_to_do": 1, "rows_new": 1, "rows_changed": 0, "rows_failed": 1,
        "failures": {"null_text": 1}, "fingerprint": "4567", "stored_fingerprint": "0123", "differs": {"layer": ["-1", "28"]},
        "last_runs": [run], "journal": {"rows": 1, "rows_of_spec": 0, "bytes": 34_035},
        "quarantine": {"rows": 2, "reasons": {"null_text": 1, "oom": 1}},
    }  # fmt: skip
    views.show_status(Console(), "t: column c", state)
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows in scope 5 done 3 to do by the next run 1 - new 1 failed 1 why null_text 1" in printed
    assert "journal 1 row, 0 of this spec; 34,035 bytes quarantine 2 rows: null_text 1, oom 1 spec of the settings" in printed
    assert "settings that differ layer (-1 in the table, 28 here)" in printed
    assert "20261127T1-ab 2026-11-27 12:00:00 0123 1, 3" in printed
    assert "with another text" not in printed


def test_commands_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    places = [printed.index(f" {panel} ") for panel in ("Start", "Run", "Look after", "Use", "Improve")]
    assert places == sorted(places)
    assert printed.index(" init ") < printed.index(" embed ") < printed.index(" search ") < printed.index(" tune ")


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["--verbose", "embed", "nowhere.yaml"], logging.INFO),
        (["embed", "nowhere.yaml", "--verbose"], logging.INFO),
        (["embed", "-v", "nowhere.yaml"], logging.INFO),
        (["embed", "nowhere.yaml"], logging.NOTSET),
    ],
)
def test_verbose_stands_before_the_command_or_after_it(arguments: list[str], level: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert logging.getLogger("metaeol_udf").level == level


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["embed", "nowhere.yaml", "--quiet"]) == 2
    assert logging.getLogger("metaeol_udf.delta.base.progress").level == logging.WARNING
    assert is_quiet()
    assert cli.run(["embed", "nowhere.yaml"]) == 2
    assert logging.getLogger("metaeol_udf.delta.base.progress").level == logging.INFO
    assert not is_quiet()
    assert capsys.readouterr().err.count("there is no such file") == 2


@pytest.mark.parametrize(
    ("changed", "lines"), [({}, 1), ({"rows_without_vector": 1}, 1), ({"rows_orphaned": 2}, 4), ({"rows_deleted": 2}, 4)]
)
def test_a_run_with_nothing_to_do_is_one_line_unless_rows_lost_their_key(
    changed: dict[str, int], lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {"status": "nothing_to_do", "rows_selected": 3, "rows_skipped": 3} | dict.fromkeys(
        ("rows_without_vector", "rows_deleted", "rows_orphaned"), 0
    )
    views.show_run(Console(), "t: column e", report | changed, [], "q")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines, printed
    assert "nothing to do: 3 rows up to date" in printed[0] or lines > 1
