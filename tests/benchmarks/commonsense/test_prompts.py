"""The wrappings, byte for byte as upstream's code has them."""

from __future__ import annotations

import pytest

from repro.benchmarks.commonsense.prompts import HIRA, LLM_ADAPTERS, TEMPLATES, PromptTemplate

INTRODUCTION = (
    "Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request."
)
S = "                "  # 16 spaces


@pytest.mark.parametrize(
    ("prompt", "lines"),
    [
        (
            LLM_ADAPTERS.training_prompt("Do\n\nit"),
            [INTRODUCTION + "  ", "", f"{S}### Instruction:", f"{S}Do", "", "it", S, f"{S}### Response:", S],
        ),
        (
            LLM_ADAPTERS.evaluation_prompt("Do\n\nit"),
            [INTRODUCTION + " ", "", f"{S}### Instruction:", f"{S}Do", "", "it", "", f"{S}### Response:", S],
        ),
        (
            HIRA.training_prompt("Do\n\nit"),
            [INTRODUCTION + "  ", "", "### Instruction:", "Do", "", "it", "", "### Response:", ""],
        ),
    ],
)
def test_prompts_are_upstreams(prompt: str, lines: list[str]) -> None:
    assert prompt.split("\n") == lines


def test_hira_evaluates_with_its_training_prompt() -> None:
    assert HIRA.evaluation_prompt("Do it") == HIRA.training_prompt("Do it")


def test_an_instruction_may_hold_braces() -> None:
    assert "{x} {0}" in LLM_ADAPTERS.evaluation_prompt("{x} {0}")


def test_hash_names_the_bytes() -> None:
    # A changed byte is another template: raise its version and write its new hash here.
    assert {name: (t.version, t.template_hash[:12]) for name, t in TEMPLATES.items()} == {
        "llm-adapters": (1, "1f17bd928e45"),
        "hira": (1, "6a37a57afb12"),
    }
    shorter = PromptTemplate("llm-adapters", 1, LLM_ADAPTERS.training.rstrip(), LLM_ADAPTERS.evaluation)
    assert shorter.template_hash != LLM_ADAPTERS.template_hash
