from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metaeol_udf import __version__, cli
from metaeol_udf.errors import BudgetError, ConflictError, QualityError, TerminatedError


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


def test_the_version_is_the_packages() -> None:
    done = subprocess.run([sys.executable, "-m", "metaeol_udf.cli", "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"metaeol-udf {__version__}\n"


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
                "doctor",
                "search",
                "duplicates",
                "explain",
                "evaluate",
                "tune",
                "curves",
                "fit",
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
