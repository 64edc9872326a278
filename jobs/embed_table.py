"""spark-submit entry of the main job: `spark-submit jobs/embed_table.py CONF [section.key=value …]` is `metaeol embed`.

Exit status: 0 done, 1 unexpected failure, 2 bad configuration or input, 3 over the failure budget, 4 conflict with another
writer, 5 environment, 6 stopped by the quality gate, 143 ended by SIGTERM and ready to go on.
"""

from __future__ import annotations

import sys

from metaeol_udf.cli import run

if __name__ == "__main__":
    status = run(["--verbose", "embed", *sys.argv[1:]])
    if status:  # Databricks takes any SystemExit for a failure
        sys.exit(status)
