"""Nightly embeddings as a Dagster asset: what `metaeol embed` does, with the figures of its report on each materialization.

    dagster dev -f examples/dagster/metaeol_asset.py

An error that no second try can cure (configuration, input, failure budget, quality gate) ends the run; the others are tried again.
Dagster reads the type of `context` when it reads this file, so annotations are not postponed here.
"""

import os

import dagster as dg

from metaeol_udf.delta import run_embed
from metaeol_udf.errors import BudgetError, ConfigError, InputError, MetaEOLError, QualityError

JOB = os.environ.get("METAEOL_JOB", "/opt/metaeol/job.yaml")
FIGURES = ("status", "rows_selected", "rows_embedded", "rows_failed", "rows_skipped", "texts_per_second", "fingerprint")


@dg.asset(group_name="embeddings", kinds={"spark", "delta"})
def ticket_vectors(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Embed what is new or changed in the source table."""
    try:
        report = run_embed(JOB)
    except (ConfigError, InputError, BudgetError, QualityError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except MetaEOLError as error:
        context.log.warning("%s; what was computed is journalled", error)
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=300) from error
    return dg.MaterializeResult(metadata={name: report[name] for name in FIGURES})


nightly = dg.ScheduleDefinition(name="nightly_vectors", target=dg.AssetSelection.assets(ticket_vectors), cron_schedule="0 2 * * *")
defs = dg.Definitions(assets=[ticket_vectors], schedules=[nightly])
