"""What every tuner's layers have in common: where their adapters live, in which precision and mode."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import PeftConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.delta_lora import DeltaLoraConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.flora import FloraConfig
from repro.adapters.layer import AdapterLayer
from repro.adapters.mora import MoraConfig

TOKENS = torch.arange(14).reshape(2, 7)
LINEAR = ["q_proj", "up_proj"]
CONFIGS: dict[str, PeftConfig] = {
    "dual_lora": DualLoraConfig(magnitude_rank=3, target_modules=LINEAR),
    "dual_lora subtract_initial": DualLoraConfig(
        magnitude_rank=3, target_modules=LINEAR, warmup="subtract_initial"
    ),
    "dual_lora fixed": DualLoraConfig(magnitude_rank=3, target_modules=LINEAR, direction="fixed"),
    "delta_lora": DeltaLoraConfig(rank=3, target_modules=LINEAR),
    "mora": MoraConfig(rank=3, target_modules=LINEAR, dropout=0.1),
    "flora": FloraConfig(rank=3, target_modules=LINEAR, dropout=0.1),
    "bottleneck parallel": BottleneckConfig(bottleneck_size=3, target_modules=LINEAR, dropout=0.1),
    "bottleneck serial": BottleneckConfig(
        placement="serial", bottleneck_size=3, target_modules=["layers.0", "layers.1"], dropout=0.1
    ),
}
tuners = pytest.mark.parametrize("tuner", CONFIGS)


def base(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(dtype)


def adapted(tuner: str, model: nn.Module, **settings: Any) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(model, copy.deepcopy(CONFIGS[tuner]), **settings)  # type: ignore[arg-type, return-value]


def adapter_tensors(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """An adapter's real parameters and buffers, the factors of dW(0), which are not saved, among them."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {key: t for key, t in tensors.items() if f".{adapter}" in key and t.is_floating_point()}


@pytest.mark.parametrize("training", [False, True])
@tuners
def test_a_new_adapter_takes_the_training_flag_of_its_layer(tuner: str, training: bool) -> None:
    model = adapted(tuner, base().train(training))
    model.base_model.model.train(training)
    model.add_adapter("second", copy.deepcopy(CONFIGS[tuner]))
    modules = list(model.get_base_model().modules())
    assert any(isinstance(module, AdapterLayer) for module in modules)
    assert {module.training for module in modules} == {training}


@tuners
def test_an_adapter_keeps_its_layers_modes_apart(tuner: str) -> None:
    """A layer that was frozen in evaluation mode stays there beside others that train."""
    model = base().train()
    for module in model.model.layers[1].modules():
        module.eval()
    adapted(tuner, model)
    for index, training in enumerate((True, False)):
        assert {module.training for module in model.model.layers[index].modules()} == {training}


@tuners
def test_adapters_take_the_dtype_of_the_base_where_they_are_told_to(tuner: str, tmp_path: Path) -> None:
    full = adapted(tuner, base(torch.bfloat16))
    rounded = adapted(tuner, base(torch.bfloat16), autocast_adapter_dtype=False)
    tensors = adapter_tensors(full)
    assert tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    for key, tensor in adapter_tensors(rounded).items():
        assert torch.equal(tensor, tensors[key].bfloat16()), key
    assert {p.requires_grad for key, p in rounded.named_parameters() if "default" in key} == {True}

    # The default is fp32 for one adapter, whatever another has.
    rounded.add_adapter("second", copy.deepcopy(CONFIGS[tuner]))
    rounded.add_adapter("third", copy.deepcopy(CONFIGS[tuner]), autocast_adapter_dtype=False)
    for adapter, dtype in {
        "default": torch.bfloat16,
        "second": torch.float32,
        "third": torch.bfloat16,
    }.items():
        assert {tensor.dtype for tensor in adapter_tensors(rounded, adapter).values()} == {dtype}

    output = rounded(TOKENS, labels=TOKENS)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()
    assert {p.grad.dtype for p in rounded.parameters() if p.grad is not None} == {torch.bfloat16}
    rounded.eval().save_pretrained(str(tmp_path), selected_adapters=["default"], save_embedding_layers=False)
    expected = rounded(TOKENS).logits
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(
            base(torch.bfloat16),
            str(tmp_path),
            autocast_adapter_dtype=False,
            low_cpu_mem_usage=low_cpu_mem_usage,
        )
        assert {tensor.dtype for tensor in adapter_tensors(loaded).values()} == {torch.bfloat16}
        assert torch.equal(loaded(TOKENS).logits, expected)


@tuners
def test_rounded_adapters_compute_what_their_values_say(tuner: str) -> None:
    """bf16 factors in an fp32 copy of the model give nearly the same output."""
    model = adapted(tuner, base(torch.bfloat16), autocast_adapter_dtype=False).eval()
    reference = copy.deepcopy(model).float()
    torch.testing.assert_close(model(TOKENS).logits.float(), reference(TOKENS).logits, rtol=0.05, atol=0.01)


@tuners
def test_fsdp1_wraps_a_bf16_base_with_an_adapter_of_its_dtype(tuner: str, tmp_path: Path) -> None:
    plain = adapted(tuner, base(torch.bfloat16), autocast_adapter_dtype=False).eval()
    loss = plain(TOKENS, labels=TOKENS).loss
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = FullyShardedDataParallel(
            copy.deepcopy(plain), device_id=torch.device("cpu"), use_orig_params=True
        )
        sharded = wrapped(TOKENS, labels=TOKENS).loss
        sharded.backward()
        gradients = [p.grad for p in wrapped.parameters() if p.requires_grad]
    finally:
        dist.destroy_process_group()
    assert torch.equal(sharded, loss)
    assert gradients and all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("tuner", [name for name in CONFIGS if name != "bottleneck serial"])
def test_base_weights_may_be_stored_in_half_precision_and_computed_in_full(tuner: str) -> None:
    """As diffusers does: hooks cast a layer's weight for its forward pass, peft leaves the input."""
    model = adapted(tuner, base()).eval()
    expected = model(TOKENS).logits
    for layer in model.get_base_model().modules():
        if type(layer) is nn.Linear:
            layer.bfloat16()
            layer.register_forward_pre_hook(lambda layer, inputs: (layer.float(), inputs)[1])
            layer.register_forward_hook(lambda layer, inputs, output: (layer.bfloat16(), output)[1])
    with disable_input_dtype_casting(model):
        output = model(TOKENS).logits
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.01)
