"""E2E NLG: sentences from meaning representations, by the official metrics."""

from repro.benchmarks.e2e.benchmark import E2E

BENCHMARK = E2E
