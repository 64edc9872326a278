"""The row fingerprint, which says that a vector belongs to a text: digest of the spec, then digest of the text."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

#: Python's `str.strip` takes these away; Java's idea of white space is another.
_NOT_BLANK = "[^\\u0009-\\u000d\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"


def row_fingerprint(spec_fingerprint: str, text: Column) -> Column:
    """`<spec>-<first 32 hexadecimal digits of the text's SHA-256>`, or `<spec>-null`.

    Over the stored bytes, so that it is the same for a text that is no valid UTF-8.
    """
    digest = F.substring(F.sha2(text.cast("binary"), 256), 1, 32)
    return F.when(text.isNull(), F.lit(f"{spec_fingerprint}-null")).otherwise(F.concat(F.lit(f"{spec_fingerprint}-"), digest))


def of_spec(spec_fingerprint: str, fingerprint: Column) -> Column:
    """Whether a row fingerprint was made with that spec."""
    return fingerprint.startswith(f"{spec_fingerprint}-")


def spec_part(fingerprint: Column) -> Column:
    """Read the digest of the spec off a row fingerprint."""
    return F.substring_index(fingerprint, "-", 1)


def text_part(fingerprint: Column) -> Column:
    """Read the digest of the text off a row fingerprint."""
    return F.substring_index(fingerprint, "-", -1)


def textless_error(text: Column) -> Column:
    """`null_text`, `empty_text`, or NULL where there is something to embed: found in SQL, without a Python worker."""
    blank = ~F.make_valid_utf8(text).rlike(_NOT_BLANK)
    return F.when(text.isNull(), F.lit("null_text")).when(blank, F.lit("empty_text"))
