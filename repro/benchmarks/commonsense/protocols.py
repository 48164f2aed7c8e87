"""How an answer is elicited: texts in, texts out, no model.

`generate` is the paper's protocol: the model is trained to say "the correct answer is X" after an
instruction, and the first label in the generated text counts. A small model hardly learns that, so `cloze`
compares the likelihoods of the options as continuations of a plain question, as lm-evaluation-harness does.
Scores under the two protocols are not comparable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from repro.benchmarks.commonsense.instructions import (
    LAYOUTS,
    render_instruction,
    render_output,
    render_outputs,
)
from repro.benchmarks.commonsense.prompts import LLM_ADAPTERS, PromptTemplate
from repro.benchmarks.commonsense.records import Record, get_task

Reading = Literal["first", "strict"]


def read_label(task: str, text: str, reading: Reading = "first") -> int | None:
    """Which of the task's labels a generated text gives, as an index; None if it gives none.

    `first` is the paper's reading: the first of the task's labels anywhere in the text, case-sensitive, also
    inside a longer word (LLM-Adapters). HiRA compares it with the first label of the gold text, which is
    always the gold label, so the result is the same. `strict` requires the trained sentence, or the label
    alone, on the first line.

    Args:
        text: what was generated, without the prompt.
    """
    labels = get_task(task).labels
    label = f"({'|'.join(labels)})"
    if reading == "first":
        found = re.search(label, text)
    else:
        found = re.match(rf"\s*(?:the correct answer is )?{label}\.?[^\S\n]*(?:\n|$)", text)
    return labels.index(found.group(1)) if found else None


class OptionTexts(NamedTuple):
    """An item as text to be scored.

    Args:
        context: what all options follow; never empty.
        continuations: one for each option.
        normalisers: one for each option; the largest log-likelihood / normaliser is the best option's.
    """

    context: str
    continuations: list[str]
    normalisers: list[float]


@dataclass(frozen=True)
class Generate:
    """Free generation after an instruction: the paper's protocol.

    Args:
        template: the text around the instruction.
        reading: how an answer is read out of a generated text.
    """

    name: ClassVar[str] = "generate"
    version: ClassVar[int] = 1

    template: PromptTemplate = LLM_ADAPTERS
    reading: Reading = "first"

    def training_text(self, record: Record) -> tuple[str, str]:
        """Prompt and completion; whether an end-of-text token follows is the trainer's choice."""
        return self.template.training_prompt(render_instruction(record)), render_output(record)

    def training_head(self, record: Record) -> str:
        """The training prompt up to the question: the template's beginning and the task's sentence."""
        return self.template.training_head + LAYOUTS[record.task].opening

    def prompt(self, record: Record) -> str:
        """The text to generate from."""
        return self.template.evaluation_prompt(render_instruction(record))

    def options(self, record: Record) -> OptionTexts:
        """The prompt, and the trained sentence with each of the item's labels, without an end token.

        How probable the gold one is says more of an item than a right or wrong answer. It decides nothing.
        """
        sentences = render_outputs(record)
        return OptionTexts(self.prompt(record), sentences, [1.0] * len(sentences))

    def extract(self, record: Record, text: str) -> int | None:
        """Index of the answer in a generated text.

        It may be outside this item's options: upstream looks for answer1 to answer5 in every item.
        """
        return read_label(record.task, text, self.reading)


@dataclass(frozen=True)
class Cloze:
    """Likelihood of each option after a plain question that does not show the options.

    The normaliser is the option's length in characters without the leading space (acc_norm of
    lm-evaluation-harness); for BoolQ and WinoGrande it is 1 (its acc).

    WinoGrande scores an option together with the rest of the sentence. Scoring only the rest, after a context
    with the option in it, would leave no shared context and no right continuation to train on. Both
    continuations have the same ending, so dividing by their lengths would only favour the longer name.
    BoolQ has no passage, as in the paper's prompts.
    """

    name: ClassVar[str] = "cloze"
    version: ClassVar[int] = 1

    def options(self, record: Record) -> OptionTexts:
        """Context, continuations with a leading space, and normalisers of an item."""
        context = f"Question: {record.question}\nAnswer:"
        endings = [option.strip() for option in record.options]
        if record.task == "boolq":
            context = f"Question: {record.question}?\nAnswer:"
            endings = ["yes", "no"]
        elif record.task == "hellaswag":
            context = _without_marks(record.question)
            endings = [_without_marks(ending) for ending in endings]
        elif record.task == "winogrande":
            before, _, after = record.question.partition("_")
            context = before.rstrip()
            endings = [ending + after.rstrip() for ending in endings]
        by_length = record.task not in ("boolq", "winogrande")
        normalisers = [float(len(ending)) if by_length else 1.0 for ending in endings]
        return OptionTexts(context, [f" {ending}" for ending in endings], normalisers)

    def training_text(self, record: Record) -> tuple[str, str]:
        """The context and the right option's continuation."""
        item = self.options(record)
        return item.context, item.continuations[record.gold]

    def training_head(self, record: Record) -> str:
        """The context up to the question, which HellaSwag's and WinoGrande's begin with."""
        return "" if record.task in ("hellaswag", "winogrande") else "Question: "


def _without_marks(text: str) -> str:
    """HellaSwag's WikiHow texts without [header], [title] and [step]; [title] ends the sentence before it."""
    text = re.sub(r" \[title\]", ". ", text)
    return re.sub(" +", " ", re.sub(r"\[[^]]*\]", "", text)).strip()
