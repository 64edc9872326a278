"""Manifests against other people's schemas: Kubernetes' own, the Spark operator's, Databricks' job classes and bundle schema.

`kubernetes-validate`, `databricks-bundles` and `jsonschema` are on the package index. The Spark operator's CRD and the schema that
`databricks bundle schema` prints are not: name the files in METAEOL_SPARK_OPERATOR_CRD and METAEOL_BUNDLE_SCHEMA.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.platforms.bundle import ROOT, joined, resolved

APPLICATION = ROOT / "examples/kubernetes/sparkapplication.yaml"


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(APPLICATION.read_text(encoding="utf-8")))


def given_file(variable: str, what: str) -> Path:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no file: {what}")
    return Path(path)


def closed(schema: Any) -> Any:
    """A CRD's schema that refuses fields it does not know, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        copied.setdefault("additionalProperties", False)
    return copied


def test_kubernetes_own_objects_follow_their_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    own = [document for document in documents() if document["kind"] != "SparkApplication"]
    assert [document["kind"] for document in own] == ["ConfigMap", "PersistentVolumeClaim"]
    for document in own:
        validate.validate(document, "1.30", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate({**own[1], "spec": {"accessMode": ["ReadOnlyMany"]}}, "1.30", strict=True)


def test_the_application_follows_the_compact_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "tests/platforms/sparkapplication.schema.json").read_text())
    (application,) = [document for document in documents() if document["kind"] == "SparkApplication"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(application, schema)
    application["spec"]["executor"]["gpus"] = 1
    with pytest.raises(jsonschema.ValidationError, match="gpus"):
        jsonschema.validate(application, schema)


def test_the_application_follows_the_operators_own_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = given_file(
        "METAEOL_SPARK_OPERATOR_CRD", "config/crd/bases/sparkoperator.k8s.io_sparkapplications.yaml of kubeflow/spark-operator"
    )
    (version,) = [v for v in yaml.safe_load(path.read_text())["spec"]["versions"] if v["name"] == "v1beta2"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    (application,) = [document for document in documents() if document["kind"] == "SparkApplication"]
    jsonschema.validate(application, schema)
    application["spec"]["executor"]["gpus"] = 1
    with pytest.raises(jsonschema.ValidationError, match="gpus"):
        jsonschema.validate(application, schema)


@pytest.mark.parametrize("target", ["dev", "prod"])
def test_databricks_own_classes_take_the_bundles_job(target: str) -> None:
    jobs = pytest.importorskip("databricks.bundles.jobs")
    settings = resolved(target)["resources"]["jobs"]["metaeol_embed"]
    job = jobs.Job.from_dict(settings)
    assert job.as_dict()["tasks"] == settings["tasks"]
    settings["tasks"][1]["max_retry"] = 2
    with pytest.raises(ValueError, match="max_retry"):
        jobs.Job.from_dict(settings)


def test_the_bundle_follows_the_schema_of_the_databricks_command_line() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = given_file(
        "METAEOL_BUNDLE_SCHEMA", "bundle/schema/jsonschema.json of databricks/cli, which `databricks bundle schema` prints too"
    )
    # Python's patterns know letters and digits by other names.
    schema = json.loads(path.read_text().replace(r"\\p{L}", r"[^\\W\\d_]").replace(r"[-_]*[[^\\W\\d_]\\p{N}]", r"[-_]*[^\\W_]"))
    bundle = joined()
    jsonschema.validate(bundle, schema)
    bundle["resources"]["jobs"]["metaeol_embed"]["tasks"][0]["python_wheel"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bundle, schema)
