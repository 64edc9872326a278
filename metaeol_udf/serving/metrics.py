"""Figures of a server as Prometheus reads them: the text format, written without a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Metrics:
    """Counts what a server did. Threads may share one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Counter[int] = Counter()
        self._texts = self._trimmed = self._tokens = 0
        self._in_bounds = [0] * len(_BOUNDS)
        self._seconds = 0.0

    def count_request(self, status: int, seconds: float) -> None:
        """Count an answer of `/v1/embeddings` and how long it took."""
        with self._lock:
            self._requests[status] += 1
            self._seconds += seconds
            for place, bound in enumerate(_BOUNDS):
                self._in_bounds[place] += seconds <= bound

    def count_texts(self, n_texts: int, n_trimmed: int, n_tokens: int) -> None:
        """Count texts that were embedded."""
        with self._lock:
            self._texts += n_texts
            self._trimmed += n_trimmed
            self._tokens += n_tokens

    def to_text(self, gauges: Mapping[str, tuple[str, float]], spec: Mapping[str, str]) -> str:
        """Write all figures.

        Args:
            gauges: Values of now: name to description and value.
            spec: What is served, as labels of a metric whose value is 1.
        """
        with self._lock:
            requests, texts, trimmed, tokens = dict(self._requests), self._texts, self._trimmed, self._tokens
            in_bounds, seconds = list(self._in_bounds), self._seconds
        n_requests = sum(requests.values())
        lines = _head("metaeol_serve_spec", "gauge", "What is served.")
        lines.append(f"metaeol_serve_spec{{{','.join(f'{name}={_quoted(value)}' for name, value in spec.items())}}} 1")
        lines += _head("metaeol_serve_requests_total", "counter", "Answers of /v1/embeddings by HTTP status.")
        lines += [f'metaeol_serve_requests_total{{status="{status}"}} {count}' for status, count in sorted(requests.items())]
        for name, words, value in (
            ("texts", "Texts embedded.", texts),
            ("texts_trimmed", "Texts trimmed to max_tokens.", trimmed),
            ("tokens", "Tokens that went through the model.", tokens),
        ):
            lines += [*_head(f"metaeol_serve_{name}_total", "counter", words), f"metaeol_serve_{name}_total {value}"]
        for name, (words, gauge) in gauges.items():
            lines += [*_head(f"metaeol_serve_{name}", "gauge", words), f"metaeol_serve_{name} {gauge:g}"]
        lines += _head("metaeol_serve_request_seconds", "histogram", "Seconds from a request's first byte to its answer.")
        lines += [f'metaeol_serve_request_seconds_bucket{{le="{bound}"}} {n}' for bound, n in zip(_BOUNDS, in_bounds, strict=True)]
        lines.append(f'metaeol_serve_request_seconds_bucket{{le="+Inf"}} {n_requests}')
        lines += [f"metaeol_serve_request_seconds_sum {seconds:.6f}", f"metaeol_serve_request_seconds_count {n_requests}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
