"""Eight tasks of GLUE: data, metrics, and classification by an encoder."""

from repro.benchmarks.glue.benchmark import Glue

BENCHMARK = Glue
