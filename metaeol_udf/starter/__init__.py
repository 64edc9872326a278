"""`metaeol init`: a first configuration from a table's schema and some of its rows."""

from metaeol_udf.starter.draft import Draft, draft_config

__all__ = ["Draft", "draft_config"]
