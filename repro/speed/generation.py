"""`generate` compared with transformers' `model.generate` at one prompt at a time, with the same beam search.

The prompts are neighbours in the test set sorted by length, as in a run's batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import GenerationConfig

from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.commonsense.settings import GenerateSettings
from repro.runs.bases import BaseModels
from repro.runs.measurements import Measurement
from repro.speed.conditions import Conditions, Found
from repro.speed.runs import lora_run
from repro.speed.timing import ratio, take_turns
from repro.training.generation import generate

_PROMPTS = 8


def figures(conditions: Conditions) -> Iterator[Found]:
    """Prompts per second, relative to `model.generate` at batch size 1.

    Raises:
        RuntimeError: more than one text differs; one may differ because of a near tie.
    """
    spec, _ = lora_run(conditions.small)
    model, tokenizer = BaseModels().checkout(spec.model, "causal_lm", "fp32")
    protocol = GenerateSettings()
    assert isinstance(spec.benchmark, Commonsense)
    benchmark = spec.benchmark.model_copy(update={"protocol": protocol})
    (batch,) = benchmark.test_batches(benchmark.test_records(), tokenizer, tokens=10**9)
    middle = (len(batch) - _PROMPTS) // 2
    prompts = [item.prompt for item in batch[middle : middle + _PROMPTS]]
    settings = {"beams": protocol.beams, "max_new_tokens": protocol.max_new_tokens}
    texts: dict[str, list[str]] = {}

    def ours() -> None:
        texts["ours"] = generate(model, tokenizer, prompts, **settings)

    def theirs() -> None:
        texts["theirs"] = [_alone(model, tokenizer, prompt, protocol) for prompt in prompts]

    # No warm-up, which would take half a minute; only the first round includes start-up effects.
    times = take_turns(
        {"theirs": theirs, "ours": ours},
        rounds=1 if conditions.small else 3,
        warm_up=0,
        budget=conditions.budget,
    )
    differ = sum(a != b for a, b in zip(texts["ours"], texts["theirs"], strict=True))
    if differ > 1:
        raise RuntimeError(f"{differ} of {len(prompts)} generated texts differ: {texts}")
    yield Measurement(
        name="generation: prompts per second, this project / model.generate at batch 1",
        at=f"{spec.model.name}, {len(prompts)} prompts of about {len(prompts[0])} tokens, {protocol.beams} "
        f"beams, {protocol.max_new_tokens} new tokens, fp32",
        ratio=ratio(times["theirs"], times["ours"]),
        target=3.0,
        higher_is_better=True,
        note=f"{times['ours'].median:.1f} s against {times['theirs'].median:.1f} s, {differ} texts differ",
    )


@torch.inference_mode()
def _alone(model: Any, tokenizer: Any, prompt: tuple[int, ...], protocol: GenerateSettings) -> str:
    input_ids = torch.tensor([prompt])
    model.generation_config = GenerationConfig()  # without the checkpoint's temperature, as in a run
    output = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        num_beams=protocol.beams,
        do_sample=False,
        max_new_tokens=protocol.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
