"""PEFT Soft Score Penalties: a score lowered by what training and inference cost.

Eq. 3 of PEFT-Bench (arXiv 2511.21285), with its constants and all weights beta = 1:

    PSCP = P / ((1 + M_p / C_p) (1 + M_f / C_f) (1 + M_m / C_m))

The constants are of the size of what full fine-tuning of an 8B model takes. With a model of 135M parameters
all penalties are small, so that the order of rows is close to that by score.
"""

from __future__ import annotations

PARAMETERS = 5e8
"""C_p: the trained parameters of a small language model."""

TERAFLOPS = 10.0
"""C_f: FLOPs (10^12) of a forward pass that an unmerged adapter adds to the base model's."""

GIGABYTES = 94.0
"""C_m: memory (10^9 bytes) of an H100 NVL, for the largest memory of training."""

TOKENS = 512
"""Tokens of that forward pass: about what the paper's 8.38 TFLOPs for LLaMA3-8B come to."""


def pscp(score: float, parameters: float, teraflops: float, gigabytes: float) -> float:
    """The penalised score, in the unit of `score`.

    Args:
        parameters: M_p, trained parameters.
        teraflops: M_f, FLOPs that the method adds to a forward pass, in 10^12.
        gigabytes: M_m, largest memory of training, mean over runs, in 10^9 bytes.
    """
    penalty = (1 + parameters / PARAMETERS) * (1 + teraflops / TERAFLOPS) * (1 + gigabytes / GIGABYTES)
    return score / penalty


def added_teraflops(parameters: int, mergeable: bool) -> float:
    """M_f by formula: 0 of what merges into the weights, else 2 FLOPs a parameter and token."""
    return 0.0 if mergeable else 2 * parameters * TOKENS / 1e12
