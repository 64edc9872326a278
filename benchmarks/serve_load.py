"""Load of `metaeol serve`: many requests at once, their errors and times, and texts a second beside those of the encoder alone.

    python -m benchmarks.serve_load --requests 200 --at-once 16 --write docs/serving.md

The server is a process of its own, started by the command that a user starts. The encoder embeds the same texts in one call, in
this process, before the server is started; both take the machine's threads.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import local
from typing import Any

import numpy as np

from benchmarks.publish import put_between_markers
from benchmarks.results import describe_machine, markdown_table
from benchmarks.texts import DATA, short_texts
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder


def offline(spec: EmbeddingSpec, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """Vectors of the encoder alone, and its texts a second after a first call."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    encoder.encode(texts[:8])
    started = time.perf_counter()
    vectors = encoder.encode(texts)
    return vectors, len(texts) / (time.perf_counter() - started)


def load(host: str, port: int, model: str, requests: Sequence[Sequence[str]], at_once: int) -> tuple[list[Any], list[float], float]:
    """Send requests, so many at once, each thread on a connection that it keeps: answers or errors, seconds of each, seconds of all."""
    own = local()

    def ask(texts: Sequence[str]) -> tuple[Any, float]:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(host, port, timeout=600)
        body = json.dumps({"model": model, "input": list(texts)})
        started = time.perf_counter()
        try:
            own.connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = own.connection.getresponse()
            read = answer.read()
            found: Any = [each["embedding"] for each in json.loads(read)["data"]] if answer.status == 200 else answer.status
        except (OSError, http.client.HTTPException) as error:
            found = type(error).__name__
            own.connection.close()
        return found, time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        done = list(pool.map(ask, requests))
    return [answer for answer, _ in done], [seconds for _, seconds in done], time.perf_counter() - started


def metric(port: int, name: str) -> float:
    """One figure of the server's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def measure(spec_file: Path, texts: Sequence[str], n_requests: int, at_once: int) -> dict[str, Any]:
    """Start the server, load it, end it by SIGTERM; a row for the table."""
    vectors, offline_rate = offline(EmbeddingSpec.load(spec_file), texts)
    command = [sys.executable, "-m", "metaeol_udf.cli", "serve", str(spec_file), "runtime.device=cpu", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            port, model = int(line[0].split(":")[2].partition("/")[0]), line[-1]
            requests = [list(texts[start::n_requests]) for start in range(n_requests)]
            answers, seconds, total = load("127.0.0.1", port, model, requests, at_once)
            n_batches = metric(port, "metaeol_serve_batches")
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)
        finally:
            process.kill()
    errors = [answer for answer in answers if not isinstance(answer, list)]
    cosines = [
        cosine(found, vectors[place])
        for start, answer in enumerate(answers)
        if isinstance(answer, list)
        for found, place in zip(answer, range(start, len(texts), n_requests), strict=True)
    ]
    rate = sum(len(answer) for answer in answers if isinstance(answer, list)) / total
    return {
        "requests": n_requests,
        "texts each": len(texts) // n_requests,
        "at once": at_once,
        "errors": ", ".join(map(str, errors)) or "0",
        "p50, s": f"{np.percentile(seconds, 50):.2f}",
        "p95, s": f"{np.percentile(seconds, 95):.2f}",
        "texts/s": f"{rate:.1f}",
        "encoder alone, texts/s": f"{offline_rate:.1f}",
        "share": f"{rate / offline_rate:.0%}",
        "texts a batch": f"{len(texts) / max(1, n_batches):.0f}",
        "worst cosine": f"{min(cosines, default=float('nan')):.6f}",
        "exit status": status,
    }


def cosine(found: Sequence[float], wanted: np.ndarray) -> float:
    """Of two vectors."""
    one, other = np.asarray(found, np.float64), wanted.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--templates", default="metaeol-fast")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--texts", type=int, default=4, help="of each request")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    texts = short_texts(arguments.requests * arguments.texts, arguments.data)
    if len(texts) < arguments.requests * arguments.texts:
        sys.exit(f"there are only {len(texts)} different texts: ask for fewer")
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.yaml"
        spec.write_text(f"model: {Path(arguments.model).resolve()}\ntemplates: {arguments.templates}\n", encoding="utf-8")
        row = measure(spec, texts, arguments.requests, arguments.at_once)
    command = f"python -m benchmarks.serve_load --requests {arguments.requests} --texts {arguments.texts} --at-once {arguments.at_once}"
    said = f"`{command}`, {date.today()}, {Path(arguments.model).name}, `{arguments.templates}`, short sentences. {describe_machine()}."
    text = f"{said}\n\n{markdown_table([row])}"
    print(text)
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(put_between_markers(page, {"serve": text}), encoding="utf-8")
    if row["errors"] != "0" or row["exit status"] != 0:
        sys.exit(1)


if __name__ == "__main__":
    main()
