"""The prompt templates around an instruction, copied from the code bases that the paper builds on.

Whitespace is part of a template. LLM-Adapters and DoRA indent the body by 16 spaces, and differ between
training and evaluation: two trailing spaces after the first sentence or one, an indented or an empty line
before the response. HiRA has the same words without indentation. So a result names its template by hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with a placeholder for the instruction; the completion follows the prompt's last character.

    Args:
        name: what a configuration calls it.
        version: raised with any change of a byte.
        training: prompt that training examples start with.
        evaluation: prompt that answers are generated from.
    """

    name: str
    version: int
    training: str
    evaluation: str

    @property
    def template_hash(self) -> str:
        """sha256 of both texts."""
        return hashlib.sha256(f"{self.training}\0{self.evaluation}".encode()).hexdigest()

    @property
    def training_head(self) -> str:
        """What a training prompt has before its instruction."""
        return self.training.partition("{instruction}")[0]

    def training_prompt(self, instruction: str) -> str:
        return self.training.replace("{instruction}", instruction)

    def evaluation_prompt(self, instruction: str) -> str:
        return self.evaluation.replace("{instruction}", instruction)


_INTRODUCTION = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_INDENT = " " * 16

# LLM-Adapters and DoRA: generate_prompt of finetune.py and of commonsense_evaluate.py.
LLM_ADAPTERS = PromptTemplate(
    name="llm-adapters",
    version=1,
    training=(
        f"{_INTRODUCTION}  \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n"
        f"{_INDENT}\n{_INDENT}### Response:\n{_INDENT}"
    ),
    evaluation=(
        f"{_INTRODUCTION} \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n"
        f"\n{_INDENT}### Response:\n{_INDENT}"
    ),
)

# HiRA: the template of dataset/format_inputs.py, one text for training and evaluation.
_HIRA_TEXT = f"{_INTRODUCTION}  \n\n### Instruction:\n{{instruction}}\n\n### Response:\n"
HIRA = PromptTemplate(name="hira", version=1, training=_HIRA_TEXT, evaluation=_HIRA_TEXT)

TEMPLATES: dict[str, PromptTemplate] = {template.name: template for template in (LLM_ADAPTERS, HIRA)}
