"""A training step of a LLaMA-7B of random weights on a GPU, by method, with and without checkpointing.

Forward pass, backward pass and AdamW, on 16 texts of 272 tokens with five adapted maps a block, as in the
paper's Table 1. All methods adapt the same frozen weights, in copies of the modules that share them, so that
they can take turns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from repro.config import Frozen
from repro.methods.dora import DoRA
from repro.methods.dual_lora import DualLoRA
from repro.methods.hira import HiRA
from repro.methods.lora import LoRA
from repro.methods.peft_method import PeftMethod
from repro.models.gradient_checkpointing import checkpoint_blocks
from repro.models.wrapper import without_wrapper
from repro.runs.measurements import Measurement, Ratio
from repro.speed.budget import Budget, OutOfTime
from repro.speed.conditions import Conditions, Found, failed, release
from repro.speed.peak_memory import peak_bytes
from repro.speed.step import CLAIMED, MEMORY
from repro.speed.timing import Times, ratio, take_turns

DROPOUT = "LoRA, dropout 0.05"
CHECKPOINTING, LIGER = ", checkpointing", ", Liger"

_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
_ROUNDS, _WARM_UP = 8, 2

# What the largest step needs, DoRA's, with the adapters and moments of all five methods beside it: 53 GiB and
# 3 for 32 blocks, seen on an H200. Embeddings, head and logits do not depend on the number of blocks.
_FIXED_GIB, _BLOCK_GIB = 2.0, 1.75
_FEWEST_BLOCKS = 4


class Llama(Frozen):
    """A LLaMA of random weights in bf16, and the batch of a step; LLaMA-7B by default."""

    blocks: int = 32
    width: int = 4096
    mlp: int = 11008
    heads: int = 32
    vocabulary: int = 32000
    texts: int = 16
    tokens: int = 272
    rank: int = 32

    def __str__(self) -> str:
        size = "LLaMA-7B" if self == Llama() else f"LLaMA of width {self.width} with {self.blocks} blocks"
        return f"{size} of random weights, {self.texts} x {self.tokens} tokens, R {self.rank}, bf16 autocast"

    def build(self, device: str) -> nn.Module:
        """The model in training mode, its weights frozen."""
        from transformers import AutoModelForCausalLM, LlamaConfig

        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            max_position_embeddings=2048,
            use_cache=False,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        return model.requires_grad_(False).train()

    def methods(self) -> dict[str, PeftMethod]:
        """The measured methods; the same number of trained weights each, but for DoRA's magnitudes."""
        half = self.rank // 2
        return {
            "LoRA": LoRA(rank=self.rank, dropout=0.0),
            DROPOUT: LoRA(rank=self.rank, dropout=0.05),
            "Dual LoRA": DualLoRA(magnitude_rank=half, direction_rank=half),
            "HiRA": HiRA(rank=self.rank),
            "DoRA": DoRA(rank=self.rank, dropout=0.0),
        }


_SMALL = Llama(blocks=2, width=64, mlp=160, heads=4, vocabulary=500, texts=2, tokens=16, rank=4)


def fitting(free_gib: float) -> Llama | None:
    """LLaMA-7B, or as many of its blocks as fit so much memory; None for a few of them."""
    blocks = min(Llama().blocks, int((free_gib - _FIXED_GIB) / _BLOCK_GIB))
    return Llama(blocks=blocks) if blocks >= _FEWEST_BLOCKS else None


class Step:
    """One optimiser step of a method, always on the same texts."""

    def __init__(self, base: nn.Module, method: PeftMethod, texts: Tensor) -> None:
        torch.manual_seed(0)
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        self.model = method.attach(copy.deepcopy(base, shared), _TARGETS, "causal_lm").train()
        self._texts = texts
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def __call__(self) -> None:
        with torch.autocast(self._texts.device.type, torch.bfloat16):
            loss = self.model(input_ids=self._texts, labels=self._texts).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def peak_gib(self) -> float:
        """Peak memory of one more step: of its model, its moments, and of what the step adds.

        Other methods' adapters, which take turns with it, are not in it.
        """
        states = (value for state in self._optimizer.state.values() for value in state.values())
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [value for value in states if isinstance(value, Tensor)]
        if self._texts.device.type == "cpu":
            return peak_bytes(self, tensors) / 2**30
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.is_cuda]
        held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self()
        return (held + torch.cuda.max_memory_allocated() - before) / 2**30


def figures(conditions: Conditions) -> Iterator[Found]:
    """Time and peak memory of a step, without checkpointing and with it."""
    llama = _llama(conditions)
    if isinstance(llama, str):
        yield llama
        return
    base = llama.build(conditions.device)
    texts = torch.randint(10, llama.vocabulary, (llama.texts, llama.tokens), device=conditions.device)
    steps: dict[str, Step] = {}
    for name, method in llama.methods().items():
        try:
            step = Step(base, method, texts)
            step()
            steps[name] = step
        except Exception as error:
            yield failed(f"step, {name}", error)
            release()
    plain: Mapping[str, Times] = {}
    for reading, budget in conditions.budget.shared({"": 2.0, CHECKPOINTING: 2.0, LIGER: 1.0}):
        try:
            budget.check(0)
            if reading == LIGER:
                yield from _with_liger(base, llama, texts, plain.get("LoRA"), budget, conditions.small)
                continue
            if reading == CHECKPOINTING:
                for step in steps.values():
                    checkpoint_blocks(step.model)
            cases = {f"{name}{reading}": step for name, step in steps.items()}
            times = _timed(cases, budget, conditions.small)
            plain = plain or times
            peaks = {name: step.peak_gib() for name, step in cases.items()}
            yield from _compared(times, peaks, str(llama), reading)
        except OutOfTime as error:
            yield f"step{reading}: not measured: {error}"
        except Exception as error:
            yield failed(f"step{reading}", error)
            release()
    yield _unsloth()


def _llama(conditions: Conditions) -> Llama | str:
    """The model to measure, or a line that none fits."""
    if conditions.small:
        return _SMALL
    free = torch.cuda.mem_get_info()[0] / 2**30
    whole, least = (_FIXED_GIB + _BLOCK_GIB * blocks for blocks in (Llama().blocks, _FEWEST_BLOCKS))
    return fitting(free) or (
        f"step: not measured: {free:.0f} GiB of the GPU's memory are free; LLaMA-7B needs {whole:.0f}, and "
        f"{_FEWEST_BLOCKS} of its {Llama().blocks} blocks {least:.0f}"
    )


def _timed(steps: Mapping[str, Step], budget: Budget, small: bool) -> dict[str, Times]:
    rounds, warm_up = (2, 1) if small else (_ROUNDS, _WARM_UP)
    return take_turns(steps, rounds=rounds, warm_up=warm_up, budget=budget)


def _compared(
    times: Mapping[str, Times], peaks: Mapping[str, float], at: str, reading: str
) -> Iterator[Measurement]:
    """Dual LoRA to LoRA in both readings, HiRA and DoRA to Dual LoRA, then Dual LoRA's memory to LoRA's."""
    for one, other, target, higher in (
        ("Dual LoRA", "LoRA", 1.22 if reading else 1.36, False),
        ("Dual LoRA", DROPOUT, None if reading else CLAIMED, False),
        ("HiRA", "Dual LoRA", None if reading else 1.15, True),
        ("DoRA", "Dual LoRA", None if reading else 1.25, True),
    ):
        first, second = f"{one}{reading}", f"{other}{reading}"
        if first in times and second in times:
            bound = {"target": target, "higher_is_better": higher}
            yield _over(first, second, times, peaks, at).model_copy(update=bound)
    dual, lora = f"Dual LoRA{reading}", f"LoRA{reading}"
    if dual in peaks and lora in peaks:
        yield Measurement(
            name=f"{dual} / {lora}: peak memory of a step",
            at=at,
            ratio=Ratio(rounds=(peaks[dual] / peaks[lora],)),
            target=MEMORY if reading else 1.0,
            note=f"{peaks[dual]:.1f} GiB against {peaks[lora]:.1f} GiB",
        )


def _with_liger(
    base: nn.Module, llama: Llama, texts: Tensor, lora: Times | None, budget: Budget, small: bool
) -> Iterator[Found]:
    """LoRA and Dual LoRA with Liger's kernels in the place of transformers' layers. The last to be measured:

    Liger also replaces functions that every LLaMA of this process calls.
    """
    if find_spec("liger_kernel") is None:
        yield "step, Liger: not installed"
        return
    liger: Any = import_module("liger_kernel.transformers")
    steps = {}
    for name in ("LoRA", "Dual LoRA"):
        step = Step(base, llama.methods()[name], texts)
        liger.apply_liger_kernel_to_llama(model=without_wrapper(step.model))
        steps[f"{name} with Liger"] = step
    times = _timed(steps, budget, small)
    peaks = {name: step.peak_gib() for name, step in steps.items()}
    at = f"{llama}, liger-kernel {version('liger-kernel')}"
    yield _over("Dual LoRA with Liger", "LoRA with Liger", times, peaks, at)
    if lora is not None:
        first = times["LoRA with Liger"].median
        yield Measurement(
            name="LoRA with Liger / LoRA: a training step",
            at=at,
            ratio=Ratio(rounds=(first / lora.median,)),
            note=f"{1e3 * first:.0f} ms against {1e3 * lora.median:.0f} ms, not in turns",
        )


def _over(
    one: str, other: str, times: Mapping[str, Times], peaks: Mapping[str, float], at: str
) -> Measurement:
    """One method's step over another's, without a target."""
    return Measurement(
        name=f"{one} / {other}: a training step",
        at=at,
        ratio=ratio(times[one], times[other]),
        note=" against ".join(
            f"{1e3 * times[name].median:.0f} ms, {peaks[name]:.1f} GiB" for name in (one, other)
        ),
    )


def _unsloth() -> str:
    if find_spec("unsloth") is None:
        return "step, Unsloth: not installed"
    return (
        f"step, Unsloth {version('unsloth')}: not measured: it loads saved checkpoints alone, and its import "
        "replaces transformers' and peft's classes for every other row"
    )
