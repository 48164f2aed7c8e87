"""The eight commonsense question-answering tasks of LLM-Adapters: data, prompts, protocols and scoring."""

from repro.benchmarks.commonsense.benchmark import Commonsense

BENCHMARK = Commonsense
