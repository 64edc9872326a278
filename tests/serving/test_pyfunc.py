"""An MLflow model of a spec loads from its artifact alone, and gives the encoder's vectors."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metaeol_udf import MetaEOLEncoder, cli
from metaeol_udf.config import load_encoder_config
from metaeol_udf.errors import ConfigError, InputError, ModelFilesError
from metaeol_udf.serving.embedder import SpecEmbedder

TEXTS = ["a first text", "and a second, somewhat longer one", "a first text"]

LOAD = """
import json, sys
import mlflow, pandas as pd
folder, other = sys.argv[1:]
model = mlflow.pyfunc.load_model(folder, model_config={"device": "cpu"})
import metaeol_udf
vectors = model.predict(pd.DataFrame({"text": json.loads(sys.stdin.read())}))
refused = ""
try:
    model.predict(pd.DataFrame({"text": ["a"]}), params={"fingerprint": other})
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
meta = model.metadata
print(json.dumps({
    "package": metaeol_udf.__file__, "vectors": vectors.tolist(), "refused": refused, "fingerprint": meta.metadata["metaeol_fingerprint"],
    "dim": meta.signature.outputs.inputs[0].shape[-1],
}))
"""


@pytest.fixture
def conf(tiny_model_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"model": str(tiny_model_dir), "dtype": "float32", "layer": [1, 2], "normalize": True}))
    return path


@pytest.mark.slow
def test_a_model_loads_from_its_artifact_alone(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason="an MLflow model needs mlflow: pip install 'metaeol-udf[mlflow]'")
    assert cli.run(["log-model", str(conf), "--out", str(tmp_path / "logged"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = shutil.move(tmp_path / "logged", elsewhere / "model")
    assert not [path for path in Path(moved).rglob("*") if path.is_symlink()]
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(moved), "0123456789abcdef"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    given = json.dumps(TEXTS)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=elsewhere, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["package"].startswith(str(moved))
    encoder = MetaEOLEncoder.from_spec(conf, device="cpu")
    np.testing.assert_allclose(found["vectors"], encoder.encode(TEXTS), atol=1e-5)
    assert (found["fingerprint"], found["dim"]) == (said["fingerprint"], encoder.dim)
    assert found["refused"].startswith("ConfigError: the spec's fingerprint is")
    pinned = (Path(moved) / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^=]+", line) for line in pinned)
    assert {"torch", "transformers", "numpy"} <= {line.partition("==")[0] for line in pinned}
    assert cli.run(["log-model", str(conf), "--out", str(moved)]) == 2


@pytest.mark.long
def test_a_model_is_logged_to_a_run_and_refuses_other_weights(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="an MLflow model needs mlflow: pip install 'metaeol-udf[mlflow]'")
    from metaeol_udf.serving.pyfunc import log_model

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the full package would keep its runs in a database instead
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    found = log_model(load_encoder_config(conf), "embedder", experiment="search")
    run = mlflow.MlflowClient().get_run(found["run_id"])
    assert run.data.tags["metaeol.fingerprint"] == found["fingerprint"]
    folder = Path(mlflow.artifacts.download_artifacts(found["model_uri"], dst_path=str(tmp_path / "taken")))
    (weights,) = folder.rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFilesError, match="other files than those that the spec was resolved with"):
        mlflow.pyfunc.load_model(str(folder))


@pytest.mark.slow
def test_mlflows_own_server_gives_the_vectors_and_refuses_another_spec(conf: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="`mlflow models serve` runs uvicorn")
    pytest.importorskip("mlflow", reason="an MLflow model needs mlflow: pip install 'metaeol-udf[mlflow]'")
    from metaeol_udf.serving.pyfunc import save_model

    fingerprint = save_model(load_encoder_config(conf), tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "model"), "--env-manager", "local", "-p", port]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": tmp_path.as_uri()}

    def ask(fingerprint: str) -> tuple[int, dict[str, Any]]:
        body = {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}, "params": {"fingerprint": fingerprint}}
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=120)
        connection.request("POST", "/invocations", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)

    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 300
            while True:
                try:
                    status, found = ask(fingerprint)
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            assert status == 200
            np.testing.assert_allclose(found["predictions"], MetaEOLEncoder.from_spec(conf, device="cpu").encode(TEXTS), atol=1e-5)
            assert ask("0123456789abcdef")[0] == 400
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_an_embedder_refuses_another_spec_and_texts_that_a_table_has_no_vector_for(conf: Path) -> None:
    with pytest.raises(ConfigError, match="and 0123456789abcdef is asked for"):
        SpecEmbedder(str(conf), fingerprint="0123456789abcdef", device="cpu")
    embedder = SpecEmbedder(str(conf), device="cpu")
    assert embedder.embed([]).shape == (0, embedder.dim)
    for texts, message in ((["a", " \n"], "text 1 is blank"), ([None], "text 0 is of type NoneType")):
        with pytest.raises(InputError, match=message):
            embedder.embed(texts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="texts must be a list or another iterable of strings, found one str"):
        embedder.embed("five letters would be five texts")
