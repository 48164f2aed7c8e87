"""The five metrics of E2E NLG, as the official scripts (tuetschek/e2e-metrics) compute them."""

from repro.benchmarks.e2e.metrics.scorer import Metric, score

__all__ = ["Metric", "score"]
