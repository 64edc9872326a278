"""The manifest for the Spark operator: what a schema cannot say. tests/integrations holds it against the schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.rules import broken_rules

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/kubernetes"


def objects() -> dict[str, dict[str, Any]]:
    text = (FOLDER / "sparkapplication.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def spec() -> dict[str, Any]:
    found: dict[str, Any] = objects()["SparkApplication"]["spec"]
    return found


def config() -> JobConfig:
    return parse_config(yaml.safe_load(objects()["ConfigMap"]["data"]["embed.yaml"]))


def test_the_application_reads_the_configuration_that_is_mounted() -> None:
    (path,) = spec()["arguments"]
    (mounted,) = spec()["driver"]["configMaps"]
    assert mounted["name"] == objects()["ConfigMap"]["metadata"]["name"]
    folder, _, file = path.rpartition("/")
    assert (folder, [file]) == (mounted["path"], list(objects()["ConfigMap"]["data"]))
    assert config().runtime.device == "cuda"


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_every_pod_that_needs_the_model_mounts_it_where_the_configuration_looks(role: str) -> None:
    (mount,) = [mount for mount in spec()[role]["volumeMounts"] if mount["name"] == "models"]
    (volume,) = [volume for volume in spec()["volumes"] if volume["name"] == "models"]
    assert config().embedding.model.startswith(f"{mount['mountPath']}/")
    assert volume["persistentVolumeClaim"]["claimName"] == objects()["PersistentVolumeClaim"]["metadata"]["name"]


def test_every_mount_has_its_volume_and_every_volume_its_mount() -> None:
    mounted = {mount["name"] for role in ("driver", "executor") for mount in spec()[role]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec()["volumes"]}


def test_the_pod_asks_for_as_many_gpus_as_spark_thinks_it_has() -> None:
    conf, gpu = spec()["sparkConf"], spec()["executor"]["gpu"]
    assert gpu == {"name": f"{conf['spark.executor.resource.gpu.vendor']}/gpu", "quantity": int(conf["spark.executor.resource.gpu.amount"])}
    assert gpu["name"] in {toleration["key"] for toleration in spec()["executor"]["tolerations"]}
    assert "gpu" not in spec()["driver"]
    assert broken_rules(ClusterSettings(settings={**conf, "spark.master": "k8s://https://kubernetes"}, device="cuda")) == []


def test_pods_have_the_time_that_a_job_takes_to_end_in_order() -> None:
    assert all(spec()[role]["terminationGracePeriodSeconds"] >= 30 for role in ("driver", "executor"))


def test_all_objects_share_one_namespace() -> None:
    assert {each["metadata"]["namespace"] for each in objects().values()} == {"analytics"}


def test_the_image_recipe_copies_what_the_application_starts() -> None:
    recipe = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    folder, _, script = spec()["mainApplicationFile"].removeprefix("local://").rpartition("/")
    assert f"COPY jobs/ {folder}/" in recipe
    assert (ROOT / "jobs" / script).is_file()
    assert f"FROM apache/spark:{spec()['sparkVersion']}-" in recipe
    assert f"-t {spec()['image']} ." in recipe
