"""The row fingerprint, which says that a vector belongs to a text: digest of the spec, then digest of the text."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.errors import ConfigError

FINGERPRINT_KEY = "target.fingerprint_key"
LEAST_KEY_BYTES = 16
_MOST_KEY_BYTES = 65_536
_BLOCK = 64  # bytes of a block of SHA-256, which RFC 2104 pads the key to
_INNER, _OUTER = "metaeol_hash_inner", "metaeol_hash_outer"

#: Python's `str.strip` takes these away; Java's idea of white space is another.
_NOT_BLANK = "[^\\u0009-\\u000d\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"


@dataclass(frozen=True)
class HashKey:
    """The secret key of the texts' hashes, so that nobody without it can try which text a hash is of.

    Attributes:
        secret: The key, of 16 bytes or more.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def read(cls, setting: str) -> HashKey:
        """Read the key from where `target.fingerprint_key` says: `env:NAME` or `file:PATH`. White space around it is no part of it.

        Raises:
            ConfigError: There is no key, or it is shorter than 16 bytes.
        """
        kind, _, name = setting.partition(":")
        if kind == "env":
            secret = os.environ.get(name, "").encode("utf-8", "surrogateescape")
        else:
            try:
                with open(Path(name).expanduser(), "rb") as file:
                    secret = file.read(_MOST_KEY_BYTES)
            except (OSError, ValueError) as error:
                said = error.strerror if isinstance(error, OSError) else "no file has such a name"
                raise ConfigError(f"{FINGERPRINT_KEY}: cannot read the key from {setting}: {said}") from None
        secret = secret.strip()
        if len(secret) < LEAST_KEY_BYTES:
            found = f"has {len(secret)} bytes" if secret else "is not set or empty"
            raise ConfigError(
                f"{FINGERPRINT_KEY}: {setting} {found}, and a key has {LEAST_KEY_BYTES} or more: make one with «openssl rand -hex 32»"
            )
        return cls(secret)

    @property
    def id(self) -> str:
        """16 hexadecimal digits by which two keys are told apart. They say nothing of the key."""
        return hmac.new(self.secret, b"metaeol fingerprint key", hashlib.sha256).hexdigest()[:16]

    def pads(self) -> tuple[bytes, bytes]:
        """Make the two blocks that HMAC (RFC 2104) hashes before the text and before the text's hash."""
        key = self.secret if len(self.secret) <= _BLOCK else hashlib.sha256(self.secret).digest()
        key = key.ljust(_BLOCK, b"\0")
        return bytes(byte ^ 0x36 for byte in key), bytes(byte ^ 0x5C for byte in key)


@dataclass(frozen=True)
class RowFingerprints:
    """How the fingerprints of a job's rows are made.

    Attributes:
        spec: The digest of the job's spec.
        key: The secret key of the texts' hashes; None: they have none.
    """

    spec: str
    key: HashKey | None = None

    @property
    def label(self) -> str:
        """What a job is known by: the digest of the spec, and which key."""
        return self.spec if self.key is None else f"{self.spec}:{self.key.id}"

    def prepare(self, rows: DataFrame) -> DataFrame:
        """Add to rows what `of` reads beside the text. Starts no Spark work.

        The key travels as data, in two columns. As literals it would stand in plans, which Spark prints and writes into its event log.
        """
        if self.key is None:
            return rows
        pads = rows.sparkSession.createDataFrame([self.key.pads()], f"{_INNER} binary, {_OUTER} binary")
        return rows.crossJoin(F.broadcast(pads))

    def of(self, text: Column) -> Column:
        """Make the fingerprint of a text, for rows that `prepare` gave."""
        return row_fingerprint(self.spec, text, keyed=self.key is not None)

    def without_key(self) -> RowFingerprints:
        """Make those that the same rows had before there was a key."""
        return RowFingerprints(self.spec)


def row_fingerprint(spec_fingerprint: str, text: Column, *, keyed: bool = False) -> Column:
    """`<spec>-<first 32 hexadecimal digits of the text's SHA-256>`, or `<spec>-null`; `keyed`: of its HMAC with SHA-256 (RFC 2104).

    Over the stored bytes, so that it is the same for a text that is no valid UTF-8.
    """
    content = text.cast("binary")
    if keyed:
        inner = F.unhex(F.sha2(F.concat(F.col(_INNER), content), 256))
        whole = F.sha2(F.concat(F.col(_OUTER), inner), 256)
    else:
        whole = F.sha2(content, 256)
    digest = F.substring(whole, 1, 32)
    return F.when(text.isNull(), F.lit(f"{spec_fingerprint}-null")).otherwise(F.concat(F.lit(f"{spec_fingerprint}-"), digest))


def of_spec(spec_fingerprint: str, fingerprint: Column) -> Column:
    """Whether a row fingerprint was made with that spec."""
    return fingerprint.startswith(f"{spec_fingerprint}-")


def spec_part(fingerprint: Column) -> Column:
    """Read the digest of the spec off a row fingerprint."""
    return F.substring_index(fingerprint, "-", 1)


def spec_part_sql(fingerprint: str) -> str:
    """Write `spec_part` of a column as SQL, for statements that take text alone."""
    return f"substring_index({fingerprint}, '-', 1)"


def text_part(fingerprint: Column) -> Column:
    """Read the digest of the text off a row fingerprint."""
    return F.substring_index(fingerprint, "-", -1)


def textless_error(text: Column) -> Column:
    """`null_text`, `empty_text`, or NULL where there is something to embed: found in SQL, without a Python worker."""
    blank = ~F.make_valid_utf8(text).rlike(_NOT_BLANK)
    return F.when(text.isNull(), F.lit("null_text")).when(blank, F.lit("empty_text"))
