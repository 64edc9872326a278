"""Settings of Spark and of the job that cost time, memory, safety or secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from metaeol_udf.doctor.machine import ON_DATABRICKS
from metaeol_udf.doctor.plan import Plan
from metaeol_udf.formatting import counted
from metaeol_udf.spark.cluster.cluster_settings import MIB
from metaeol_udf.spark.cluster.finding import Finding, ok, warning, wrong_setting
from metaeol_udf.spark.cluster.rules import check_speculation, check_worker_reuse
from metaeol_udf.spark.cluster.session import DELTA_SETTINGS

_TIMEOUT = "spark.sql.execution.pyspark.udf.idleTimeoutSeconds"
_KILL = "spark.sql.execution.pyspark.udf.killOnIdleTimeout"
_RECORDS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_SCRATCH, _AUTHENTICATE, _ENCRYPT = "spark.io.encryption.enabled", "spark.authenticate", "spark.network.crypto.enabled"
_CIPHER, _SAFE_CIPHER = "spark.network.crypto.cipher", "AES/GCM/NoPadding"  # Spark's own default does not notice altered bytes
_LONGEST_LOAD_S = 300  # of a large model from a slow disk; a worker is silent meanwhile
_SECRET_KEY = re.compile(r"secret|password|passwd|token|access[.]?key|account[.]?key|credential|auth", re.IGNORECASE)
_REDACTED_KEY = re.compile(r"secret|password|token|access[.]?key", re.IGNORECASE)  # spark.redaction.regex by default
_SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{8,}|AKIA[A-Z0-9]{12,}|dapi[0-9a-f]{16,}|gh[pos]_[A-Za-z0-9]{16,}")
_NOT_A_SECRET = re.compile(r"\{\{secrets/.+\}\}|true|false|\d+|[\w.$]*Provider|")


def check_delta(plan: Plan) -> Finding:
    """Without Delta's extension and catalog a session opens no Delta table by name and merges none."""
    if ON_DATABRICKS:
        return ok("delta", "the Databricks runtime brings Delta")
    for key, value in DELTA_SETTINGS.items():
        written = plan.settings.get(key)
        if written is not None and value not in written and not (key.endswith("extensions") and key in plan.config.spark.conf):
            return wrong_setting("delta", f"{key} is {written!r}", f"{key}={value}")
    return ok("delta", "the session's extension and catalog are Delta's")


def check_arrow_batches(plan: Plan) -> Finding:
    """Forward passes are planned over many Arrow batches, so tiny ones only cost, and unbounded ones only take memory."""
    records = int(plan.number(_RECORDS, 10_000))
    if 0 < records < 100:
        return warning("arrow batches", f"{_RECORDS} is {records}: a round trip for every {records} rows", f"{_RECORDS}=10000")
    unbounded = records <= 0 or records > 100_000
    n_bytes = plan.bytes_of(_BYTES, "64m", 1)
    if unbounded and (n_bytes <= 0 or n_bytes > 512 * MIB):
        return warning("arrow batches", f"{_RECORDS} is {records} and {_BYTES} is {n_bytes}: a batch takes any memory", f"{_RECORDS}=10000")
    return ok("arrow batches", f"at most {counted(records, 'row')} or {n_bytes // MIB} MiB")


def check_idle_timeout(plan: Plan) -> Finding:
    """A worker that hangs in a forward pass is only ever noticed by this timeout."""
    seconds = int(plan.number(_TIMEOUT, 0))
    if seconds <= 0 and plan.is_local:
        return ok("idle timeout", "on this machine you see a worker that hangs")
    if seconds <= 0:
        return warning("idle timeout", f"{_TIMEOUT} is not set: a hung worker holds its task for ever", f"{_TIMEOUT}=1800 and {_KILL}=true")
    if not plan.is_on(_KILL, False):
        return warning("idle timeout", f"{_TIMEOUT} is {seconds}, but {_KILL} is off: a hung worker is logged, not ended", f"{_KILL}=true")
    if seconds < _LONGEST_LOAD_S:
        return warning("idle timeout", f"{_TIMEOUT} is {seconds}: a worker that loads a large model may be ended", f"{_TIMEOUT}=1800")
    return ok("idle timeout", f"a worker that is silent for {seconds} s is ended and its task repeated")


def check_retries(plan: Plan) -> Finding:
    """On a cluster a lost executor is an ordinary event."""
    key = "spark.task.maxFailures"
    failures = int(plan.number(key, 4))
    if not plan.is_local and failures < 2:
        return warning("retries", f"{key} is {failures}: one lost executor ends the job", f"{key}=4")
    return ok("retries", "a local master repeats no task" if plan.is_local else f"a task may fail {failures - 1} times")


def check_parallelism(plan: Plan) -> Finding:
    """A wave is cut into tasks by the slots that are known when it starts."""
    key, timeout = "spark.default.parallelism", "spark.dynamicAllocation.cachedExecutorIdleTimeout"
    if plan.is_on("spark.dynamicAllocation.enabled", False):
        if plan.settings.get(timeout, "infinity") != "infinity":
            found = (
                f"{timeout} is {plan.settings[timeout]}: an executor that keeps rows of the run may be given back, and the run begins anew"
            )
            return warning("parallelism", found, f"{timeout}=infinity")
        if key not in plan.settings:
            found = "spark.dynamicAllocation.enabled is on: a wave that starts before its executors do gets a few tasks only"
            return warning("parallelism", found, f"{key}=<slots of all executors>")
    parallelism = int(plan.number(key, plan.n_slots))
    if parallelism < plan.n_slots:
        return warning(
            "parallelism", f"{key} is {parallelism}, an executor alone has {counted(plan.n_slots, 'slot')}", f"{key}={plan.n_slots}"
        )
    return ok("parallelism", "tasks follow the slots of the session")


def check_secrets(plan: Plan) -> Finding:
    """Values of `spark.conf` stand in a file, and in Spark's UI and event log where the key does not look like a secret."""
    clear = [key for key, value in plan.config.spark.conf.items() if _is_secret(key, value)]
    if not clear:
        return ok("secrets", "spark.conf holds no secret in clear")
    shown = [key for key in clear if not _REDACTED_KEY.search(key)]
    found = f"spark.conf holds what looks like a secret in clear: {', '.join(sorted(clear))}"
    if shown:
        found += f"; Spark's UI and event log would show {', '.join(sorted(shown))}"
    return warning("secrets", found, f"spark.conf.{(shown or clear)[0]}={{{{secrets/scope/key}}}}, or the environment")


def check_scratch_files(plan: Plan) -> Finding:
    """See that what Spark shuffles and spills is encrypted: it holds texts, and may outlive a killed executor."""
    if ON_DATABRICKS:
        return ok("scratch files", "the settings of the Databricks cluster say whether its disks are encrypted")
    is_started, is_here = "spark.app.id" in plan.settings, plan.master.startswith("local")
    if plan.is_on(_SCRATCH, is_here and not is_started):  # as the session that the job would start has it
        return ok("scratch files", "what Spark shuffles and spills is encrypted")
    where = "this machine" if is_here else "the executors"
    found = f"{plan.shown(_SCRATCH)}: texts lie open in shuffle and spill files on the disks of {where}"
    return warning("scratch files", found, f"{_SCRATCH}=true")


def check_authentication(plan: Plan) -> Finding:
    """See that driver and executors take orders and questions from each other alone."""
    if ON_DATABRICKS:
        return ok("authentication", "the Databricks cluster keeps others away from its ports")
    if plan.master.startswith("local"):
        return ok("authentication", "a local session has no executors on other machines")
    if plan.is_on(_AUTHENTICATE, False):
        return ok("authentication", "driver and executors prove to each other who they are")
    found = f"{plan.shown(_AUTHENTICATE)}: anybody who reaches the ports of driver and executors can read texts and send work"
    makes_secret = plan.master.startswith(("yarn", "k8s"))
    return warning(
        "authentication", found, f"{_AUTHENTICATE}=true" + ("" if makes_secret else f" and {_AUTHENTICATE}.secret=<one for all nodes>")
    )


def check_traffic(plan: Plan) -> Finding:
    """See that texts are encrypted on their way between driver and executors: by TLS, or by AES, which needs authentication."""
    if ON_DATABRICKS:
        return ok("traffic", "the settings of the Databricks cluster say whether its traffic is encrypted")
    if plan.master.startswith("local"):
        return ok("traffic", "a local session sends no text to other machines")
    if plan.is_on("spark.ssl.rpc.enabled", False):
        return ok("traffic", "driver and executors speak TLS")
    wanted = {_AUTHENTICATE: "true", _ENCRYPT: "true", _CIPHER: _SAFE_CIPHER}
    missing = {key: value for key, value in wanted.items() if plan.settings.get(key, "").strip().lower() != value.lower()}
    if not missing:
        return ok("traffic", "what driver and executors send each other is encrypted")
    if set(missing) == {_CIPHER}:
        found = f"{plan.shown(_CIPHER)}: whoever is on the way between driver and executors can alter what they send"
    else:
        key = _ENCRYPT if _ENCRYPT in missing else _AUTHENTICATE
        how = "under SASL's weak ciphers" if plan.is_on("spark.authenticate.enableSaslEncryption", False) else "in clear"
        found = f"{plan.shown(key)}: texts travel {how} between driver and executors"
    return warning("traffic", found, " and ".join(f"{key}={value}" for key, value in missing.items()))


def check_budget(plan: Plan) -> Finding:
    """The failure budget tells a few bad rows from a broken job; NULL and blank texts count."""
    fraction = plan.config.runtime.max_failed_fraction
    key = "runtime.max_failed_fraction"
    if fraction >= 0.5:
        found = f"{key} is {fraction:g}: a job that fails on half of the rows would end with status 0"
        return warning("failure budget", found, f"{key}=0.01")
    if fraction == 0:
        return warning("failure budget", f"{key} is 0: one NULL or blank text ends the job with status 3", f"{key}=0.01")
    return ok("failure budget", f"{fraction:.2%} of the rows may fail")


def check_ignored(config_conf: Mapping[str, str], running: Mapping[str, str], fixed: frozenset[str]) -> Finding:
    """See that no setting is ignored: a session that runs already keeps those of `fixed` as it was started with them."""
    ignored = sorted(key for key in fixed if running.get(key) != config_conf[key])
    if not ignored:
        return ok("session settings", "the session has the settings of spark.conf")
    found = f"the running session does not take {', '.join(ignored)} from spark.conf"
    return warning("session settings", found, f"{ignored[0]} where the session is started: spark-submit --conf, or the cluster's settings")


def _is_secret(key: str, value: str) -> bool:
    if _NOT_A_SECRET.fullmatch(value) or ("://" in value and not _SECRET_VALUE.search(value)):
        return False
    return bool(_SECRET_VALUE.search(value)) or bool(_SECRET_KEY.search(key.rpartition("spark.")[2]))


CHECKS = (
    check_delta,
    check_speculation,
    check_worker_reuse,
    check_arrow_batches,
    check_idle_timeout,
    check_retries,
    check_parallelism,
    check_secrets,
    check_scratch_files,
    check_authentication,
    check_traffic,
    check_budget,
)
