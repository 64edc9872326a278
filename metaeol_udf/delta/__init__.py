"""The four commands over Delta tables: embed (`job`), stream, retry and fit. Never imports torch.

The way of one run, as `pipeline.EmbedRun.run` calls it:

- `select/snapshot`: pin the tables' versions, and count the rows that need work.
- `write/run_lock`: take the lock of the job once the executors are checked, so that a second run does not pay for the same texts.
- `write/prepare`: give the table the vectors' columns, and properties that say how the vectors are made.
- `select/selection`: find the different texts that the journal does not hold yet.
- `write/waves`: send them through the model, wave by wave.
- `write/journal`: keep each wave's vectors by content, so that a run that is cut off never pays twice; forget what is published.
- `gate/gate`: compare the new vectors with those of another spec; only where the gate is on.
- `write/merge`: publish by one MERGE, and prove from the tables that every row holds its vector.
- `write/quarantine`: list the rows that failed.
- `base/run_report`, `report/`: say what the run did; other systems and the page only where the settings name them.
"""

from metaeol_udf.delta.base.progress import Progress
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.job import run_embed

__all__ = ["Progress", "Report", "run_embed"]
