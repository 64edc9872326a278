"""The commands and the code of docs/serving.md, with the server on a free port and in the place of the page's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaeol_udf import cli
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.spec import EmbeddingSpec
from tests.doc_page import ROOT, Block, blocks_of, run_block

pytestmark = pytest.mark.slow
BLOCKS = [block for block in blocks_of("serving.md") if block.language in ("python", "console")]
SHOWN = "f1e64372d9187390"  # the fingerprint on the page, which is that of one build of the model


@pytest.fixture(scope="module")
def changes(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A folder with the page's spec, its server, and what in the page is other there."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "models").symlink_to(model_dir.parent)
    before = Path.cwd()
    os.chdir(folder)
    (yaml,) = (block for block in blocks_of("serving.md") if block.language == "yaml")
    run_block(yaml, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = {"8000": str(port), SHOWN: resolve_local(EmbeddingSpec.load("spec.yaml")).fingerprint}
    (command, said), *_ = shown_commands(changed(BLOCKS[0], found))
    words = [sys.executable, "-m", "metaeol_udf.cli", *command.split()[1:], "runtime.device=cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == said
            yield found
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.chdir(before)


def changed(block: Block, changes: dict[str, str]) -> Block:
    code, output = block.code, block.output
    for old, new in changes.items():
        code, output = code.replace(old, new), None if output is None else output.replace(old, new)
    return Block(block.language, code, output, block.section)


def shown_commands(block: Block) -> list[tuple[str, str]]:
    """Commands of a console block with what is shown below each."""
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]]


@pytest.mark.parametrize("number", range(1, len(BLOCKS)))
def test_a_block_of_the_page_prints_what_the_page_says(
    number: int, changes: dict[str, str], capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    block = changed(BLOCKS[number], changes)
    if block.language == "python":
        package = block.code.split()[1].partition(".")[0]
        for name in {"openai", "mlflow"} & {package} | {word for word in ("langchain", "llama_index") if f"serving.{word}" in block.code}:
            pytest.importorskip({"langchain": "langchain_core"}.get(name, name))
        assert run_block(block, {}) == block.output
        return
    for command, said in shown_commands(block):
        if command.startswith("metaeol "):
            assert cli.run(command.split()[1:]) == 0
            printed = capsys.readouterr().out
        else:
            if shutil.which(command.split()[0]) is None:
                pytest.skip(f"{command.split()[0]} is not on this machine")
            printed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60).stdout
        assert re.fullmatch(re.escape(said.rstrip("\n")).replace("…", ".*"), printed.rstrip("\n")), printed
