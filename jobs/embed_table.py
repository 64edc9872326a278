"""spark-submit entry of the main job: `spark-submit jobs/embed_table.py CONF [section.key=value …]`, as `metaeol embed`.

Exit status: 0 done, 1 unexpected failure, 2 bad configuration or input, 3 over the failure budget, 4 conflict with another
writer, 5 environment.
"""

from __future__ import annotations

import logging
import sys

from metaeol_udf.config import load_config
from metaeol_udf.delta import run_embed
from metaeol_udf.errors import ConfigError, MetaEOLError


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)  # it logs every call
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            raise ConfigError("usage: embed_table.py CONF [section.key=value …]")
        report = run_embed(load_config(arguments[0], arguments[1:]))
    except MetaEOLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{report['status']}: {report['rows_embedded']} rows embedded, {report['rows_skipped']} current, {report['rows_failed']} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
