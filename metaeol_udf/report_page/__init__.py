"""The run report as one HTML page: figures from the report, and a map of a sample of the vectors. Needs no Spark."""

from metaeol_udf.report_page.html_page import read_report, render_page, write_page
from metaeol_udf.report_page.vector_map import VectorSample

__all__ = ["VectorSample", "read_report", "render_page", "write_page"]
