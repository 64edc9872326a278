"""The four commands over Delta tables: embed (`job`), stream, retry and fit. Never imports torch.

The way of one run, as `pipeline.EmbedRun.run` calls it:

- `select/looking`, `select/snapshot`: pin the tables' versions, and find the rows that need work, by what is stored.
- `select/changed_files`, `select/proof`: look at the files that were added since the last proof, or at all rows, and then say why.
- `write/deletions`: count the rows whose key left the source; at the end remove them, and passages that a text lost.
- `write/run_lock`: take the lock of the job once the executors are checked, so that a second run does not pay for the same texts.
- `write/prepare`: give the table the vectors' columns, and properties that say how the vectors are made.
- `select/pending`, `write/reuse`: find the different texts that neither the journal nor a table holds a vector of.
- `write/waves`: send them through the model, wave by wave.
- `write/journal`: keep each wave's vectors by content, so that a run that is cut off never pays twice; forget what is published.
- `gate/gate`: compare the new vectors with those of another spec; only where the gate is on.
- `write/merge`, `write/verify`: publish by MERGE, and prove from the files that came in that every row holds its vector.
- `write/quarantine`: list the rows that failed.
- `together`: do the first steps, up to the journal, for several columns of vectors at once.
- `base/run_report`, `report/`: say what the run did; other systems and the page only where the settings name them.
"""

from metaeol_udf.delta.base.progress import Progress
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.fit import run_fit
from metaeol_udf.delta.job import run_embed
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream

__all__ = ["Progress", "Report", "run_embed", "run_fit", "run_retry", "run_stream"]
