"""Requests and answers of `/v1/embeddings` in the form that OpenAI's clients speak. Knows no network and no model."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.errors import InputError
from metaeol_udf.files import parse_json
from metaeol_udf.formatting import shorten
from metaeol_udf.prompts.cleanup import is_blank

_FIELDS = ("model", "input", "encoding_format", "dimensions", "user")
_FORMATS = ("float", "base64")


class RequestError(InputError):
    """A request that cannot be answered.

    Attributes:
        status: Of the HTTP answer.
        code: A word for programs.
        param: The field of the request that is wrong, if it is one.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def to_json(self) -> bytes:
        """Write the error as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 429 else "server_error"
        return json.dumps({"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}).encode()


@dataclass(frozen=True)
class EmbeddingsRequest:
    """Holds a request that was found to be right.

    Attributes:
        texts: What to embed; none blank.
        is_base64: Whether vectors are wanted as base64 of little-endian float32, else as numbers.
    """

    texts: list[str]
    is_base64: bool


def parse_request(body: bytes, names: Collection[str], dim: int, max_texts: int) -> EmbeddingsRequest:
    """Read the body of a request.

    Args:
        body: JSON.
        names: What the served spec may be called; any other `model` is refused.
        dim: Length of its vectors; any other `dimensions` is refused.
        max_texts: Texts that one request may hold.

    Raises:
        RequestError: The request is wrong. The message quotes no text.
    """
    found = _read_object(body)
    unknown = [name for name in found if name not in _FIELDS]
    if unknown:
        raise _wrong(unknown[0], f"unknown field {shorten(unknown[0], 80)!r}; known: {', '.join(_FIELDS)}")
    model = found.get("model")
    if not isinstance(model, str):
        raise _wrong("model", f"model must name the served spec: {' or '.join(names)}")
    if model not in names:
        message = f"model {shorten(model, 80)!r} is not served here, and another spec's vectors cannot be compared: {' or '.join(names)} is"
        raise RequestError(404, "model_not_found", message, "model")
    wanted = found.get("dimensions")
    if wanted is not None and (type(wanted) is not int or wanted != dim):
        raise _wrong(
            "dimensions", f"dimensions must be {dim}, those of the spec: a shorter vector is another spec (embedding.truncate_dim)"
        )
    form = found.get("encoding_format")
    if form is not None and form not in _FORMATS:
        raise _wrong("encoding_format", f"encoding_format must be {' or '.join(_FORMATS)}")
    if found.get("user") is not None and not isinstance(found["user"], str):
        raise _wrong("user", "user must be a string")
    return EmbeddingsRequest(_read_texts(found.get("input"), max_texts), form == "base64")


def write_answer(request: EmbeddingsRequest, vectors: NDArray[np.float32], model: str, n_tokens: int) -> bytes:
    """Write the answer to a request: its vectors, shape ``(n_texts, dim)``, in the order of its texts."""
    data = [
        {"object": "embedding", "index": place, "embedding": _as_base64(vector) if request.is_base64 else vector.tolist()}
        for place, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()


def write_models(names: Collection[str]) -> bytes:
    """Write the list of models: the names that a request may give."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "metaeol-udf"} for name in names]
    return json.dumps({"object": "list", "data": data}).encode()


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        found = parse_json(body)
    except ValueError:  # UnicodeDecodeError is a ValueError
        found = None
    if not isinstance(found, dict):
        raise RequestError(400, "invalid_json", "the body must be one JSON object in UTF-8")
    return found


def _read_texts(given: Any, max_texts: int) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _wrong("input", "input must be a string or a list of strings that is not empty")
    if len(texts) > max_texts:
        raise _wrong("input", f"input holds {len(texts)} texts, and a request may hold {max_texts}: send several requests")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise _wrong("input", f"input[{place}] must be a string: lists of tokens are not taken, for the prompt is put around the text")
        if is_blank(text):
            raise _wrong("input", f"input[{place}] is blank: a table holds NULL for it")
    return texts


def _wrong(param: str, message: str) -> RequestError:
    return RequestError(400, "invalid_value", message, param)


def _as_base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
