"""Whole models: what trains, how many parameters that is, what is saved, and what torch makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModel,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from repro.adapters.dual_lora import DualLoraConfig, DualLoraLayer

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "eq12": {"clip": "eq12"},
    "abs": {"magnitude_activation": "abs"},
    "sigmoid": {"magnitude_activation": "sigmoid"},
    "xnor": {"sign_estimator": "xnor"},
    "dorefa": {"sign_estimator": "dorefa"},
    "plain direction": {"direction": "identity"},
    "fixed": {"direction": "fixed"},
    "subtract": {"warmup": "subtract_initial"},
    "fixed, subtract": {"direction": "fixed", "warmup": "subtract_initial"},
    "no warm-up": {"warmup": "none"},
}
Make = Callable[..., PeftModel]


def train(model: PeftModel, tokens: Tensor, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: PeftModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


def adapter_parameters(model: PeftModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if "dual_lora" in name}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_factor_and_nothing_else_trains(
    variant: dict[str, Any], dual_llama: Make, tokens: Tensor
) -> None:
    model = dual_llama(**variant)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, tokens)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(adapter_parameters(model))
    groups = "AB" if variant.get("direction") == "fixed" else "ABCD"
    assert len(moved) == 2 * 5 * len(groups)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_saved_adapter_loads(
    variant: dict[str, Any],
    low_cpu_mem_usage: bool,
    dual_llama: Make,
    base_llama: Callable[[], LlamaForCausalLM],
    tokens: Tensor,
    tmp_path: Path,
) -> None:
    model = dual_llama(**variant)
    train(model, tokens)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    # Seeds and counters are single numbers: nothing of the base model and nothing dense is in the file.
    trained = sum(p.numel() for p in adapter_parameters(model).values())
    assert all("dual_lora_" in name for name in stored)
    assert sum(t.numel() for t in stored.values() if t.dim()) == trained
    assert all(t.dtype == torch.int64 for t in stored.values() if not t.dim())

    base = base_llama()
    torch.manual_seed(123)  # the generator is not as it was when the adapter was drawn
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert torch.equal(
        logits(loaded.merge_and_unload(), tokens), logits(copy.deepcopy(model).merge_and_unload(), tokens)
    )


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("warmup", ["ramp", "subtract_initial"])
def test_bf16_base_never_rounds_the_factors(
    warmup: str,
    low_cpu_mem_usage: bool,
    base_llama: Callable[[], LlamaForCausalLM],
    tokens: Tensor,
    tmp_path: Path,
) -> None:
    def adapt(base: LlamaForCausalLM) -> PeftModel:
        torch.manual_seed(0)
        return get_peft_model(base, DualLoraConfig(target_modules=["q_proj"], warmup=warmup))

    model, exact = adapt(base_llama().bfloat16()), adapt(base_llama())
    for (name, p), q in zip(
        adapter_parameters(model).items(), adapter_parameters(exact).values(), strict=True
    ):
        assert p.dtype == torch.float32 and torch.equal(p, q), name
    train(model, tokens)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        base_llama().bfloat16(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage, is_trainable=True
    )
    for (name, p), q in zip(
        adapter_parameters(model).items(), adapter_parameters(loaded).values(), strict=True
    ):
        assert q.dtype == torch.float32 and torch.equal(p, q), name
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))


def test_adapter_on_other_layers_waits_for_its_turn(dual_llama: Make, tokens: Tensor) -> None:
    model = dual_llama()
    model.add_adapter("second", DualLoraConfig(magnitude_rank=2, init_std=0.3, target_modules=["o_proj"]))
    before = logits(model, tokens)
    assert {n.split(".")[-1] for n, p in model.named_parameters() if p.requires_grad} == {"default"}
    model.set_adapter("second")
    assert {n.split(".")[-1] for n, p in model.named_parameters() if p.requires_grad} == {"second"}
    assert not torch.allclose(logits(model, tokens), before)


def test_subtracting_the_initial_update_starts_from_the_base_model(
    dual_llama: Make, base_llama: Callable[[], LlamaForCausalLM], tokens: Tensor
) -> None:
    model = dual_llama(warmup="subtract_initial")
    torch.testing.assert_close(logits(model, tokens), logits(base_llama(), tokens))
    initial = {name: p.detach().clone() for name, p in adapter_parameters(model).items()}
    train(model, tokens)
    layer = next(m for m in model.modules() if isinstance(m, DualLoraLayer))
    name = next(name for name, p in model.named_parameters() if p is layer.dual_lora_A["default"])

    def delta(factors: dict[str, Tensor]) -> Tensor:
        A, B, C, D = (
            factors[name.replace("dual_lora_A", f"dual_lora_{g}")].detach().double() for g in "ABCD"
        )
        return 32.0 / 3 * torch.relu(B @ A) * torch.where(D @ C > 0, 1.0, -1.0)

    expected = delta(adapter_parameters(model)) - delta(initial)
    torch.testing.assert_close(layer.get_delta_weight("default").double(), expected, rtol=1e-4, atol=1e-5)


def test_seed_decides_the_factors_and_the_mask(
    base_llama: Callable[[], LlamaForCausalLM], tokens: Tensor
) -> None:
    def made(seed: int) -> Tensor:
        base = base_llama()
        torch.manual_seed(seed)
        return logits(
            get_peft_model(base, DualLoraConfig(direction="fixed", target_modules=["q_proj"])), tokens
        )

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


def test_factors_are_normal_with_the_asked_deviation() -> None:
    model = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(400, 300)), DualLoraConfig(target_modules=["0"])
    )
    for factor in adapter_parameters(model).values():
        n = factor.numel()
        assert abs(factor.mean()) < 5 * 0.02 / n**0.5
        assert abs(factor.std() / 0.02 - 1) < 5 / (2 * n) ** 0.5
        assert abs((factor.abs() < 0.02).double().mean() - 0.6827) < 5 * (0.6827 * 0.3173 / n) ** 0.5


def test_init_weights_false_makes_an_update_as_large_as_the_weights() -> None:
    linear = torch.nn.Linear(400, 300)
    config = DualLoraConfig(target_modules=["0"], init_weights=False)
    model = get_peft_model(torch.nn.Sequential(linear), config)
    for name, factor in adapter_parameters(model).items():
        assert factor.std().item() == pytest.approx((3 * factor.shape[1]) ** -0.5, rel=0.1), name
    layer = next(m for m in model.modules() if isinstance(m, DualLoraLayer))
    assert 0.3 < layer.get_delta_weight("default").std() / linear.weight.std() < 3


def test_full_state_dict_round_trip(dual_llama: Make, tokens: Tensor) -> None:
    for variant in ({}, {"direction": "fixed"}, {"warmup": "subtract_initial"}):
        model = dual_llama(**variant)
        train(model, tokens)
        other = dual_llama(seed=9, **variant)
        assert other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(logits(other, tokens), logits(model, tokens))


def test_disabled_adapter_is_the_base_model(
    dual_llama: Make, base_llama: Callable[[], LlamaForCausalLM], tokens: Tensor
) -> None:
    model = dual_llama()
    expected = logits(base_llama(), tokens)
    assert not torch.allclose(logits(model, tokens), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model, tokens), expected)
    assert not torch.allclose(logits(model, tokens), expected)


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        ("none", set()),
        ("all", {"query", "value", "LayerNorm", "dense"}),
        ("dual_lora_only", {"query", "value"}),
    ],
)
def test_heads_and_biases(bias: str, expected: set[str], tmp_path: Path, tokens: Tensor) -> None:
    def base() -> RobertaForSequenceClassification:
        torch.manual_seed(0)
        size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        return RobertaForSequenceClassification(
            RobertaConfig(vocab_size=40, max_position_embeddings=20, **size)
        )

    config = DualLoraConfig(
        magnitude_rank=2, target_modules=["query", "value"], modules_to_save=["classifier"], bias=bias
    )
    model = get_peft_model(base(), config)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trainable if ".modules_to_save." in name}
    own = [n for n in trainable if n.endswith(".bias") and "classifier" not in n]
    names = {n.replace(".base_layer", "").split(".")[-2] for n in own}
    assert names >= expected and (bool(names) == bool(expected)) and (bias == "all" or names == expected)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=tokens, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path), tokens), logits(model, tokens))


def test_targets_and_patterns(dual_llama: Make) -> None:
    model = dual_llama(
        direction_rank=5,
        alpha=10.0,
        target_modules="all-linear",
        exclude_modules=["o_proj"],
        rank_pattern={"v_proj": (1, 4), r"layers\.1\.mlp\.up_proj": (2, 2)},
        alpha_pattern={"q_proj": 3.0},
    )
    layers = {
        n.split("model.layers.")[-1]: m for n, m in model.named_modules() if isinstance(m, DualLoraLayer)
    }
    assert len(layers) == 2 * 6 and not [name for name in layers if "o_proj" in name or "lm_head" in name]

    def ranks(name: str) -> tuple[int, int]:
        return len(layers[name].dual_lora_A["default"]), len(layers[name].dual_lora_C["default"])

    assert ranks("0.self_attn.v_proj") == ranks("1.self_attn.v_proj") == (1, 4)
    assert ranks("1.mlp.up_proj") == (2, 2) and ranks("0.mlp.up_proj") == (3, 5)
    assert layers["0.self_attn.q_proj"].scaling["default"] == pytest.approx(3 / 15**0.5)
    assert layers["0.self_attn.v_proj"].scaling["default"] == pytest.approx(10 / 2)

    fixed = dual_llama(direction="fixed", alpha=10.0, rank_pattern={"v_proj": (5, 0)})
    found = {
        n.split(".")[-1]: m.scaling["default"]
        for n, m in fixed.named_modules()
        if isinstance(m, DualLoraLayer)
    }
    assert found["q_proj"] == pytest.approx(10 / 3) and found["v_proj"] == pytest.approx(2)


def test_only_the_asked_layers(dual_llama: Make) -> None:
    model = dual_llama(layers_to_transform=[1])
    adapted = [name for name, module in model.named_modules() if isinstance(module, DualLoraLayer)]
    assert len(adapted) == 5 and all("layers.1." in name for name in adapted)


def llama(hidden: int, intermediate: int, heads: int, kv_heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )


def roberta(hidden: int) -> RobertaConfig:
    return RobertaConfig(hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=hidden // 64)


LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
ENCODER_TARGETS = ["query", "value", "query_proj", "value_proj"]


@pytest.mark.parametrize(
    ("config", "layers", "targets", "rank", "expected"),
    [
        pytest.param(llama(4096, 11008, 32, 32), 32, LLAMA_TARGETS, 16, 56_098_816, id="LLaMA-7B"),
        pytest.param(llama(5120, 13824, 40, 40), 40, LLAMA_TARGETS, 16, 87_818_240, id="LLaMA-13B"),
        pytest.param(llama(4096, 14336, 32, 8), 32, LLAMA_TARGETS, 16, 56_623_104, id="LLaMA3-8B"),
        pytest.param(llama(8192, 28672, 64, 8), 80, LLAMA_TARGETS, 8, 138_936_320, id="LLaMA3-70B"),
        pytest.param(roberta(768), 12, ENCODER_TARGETS, 8, 589_824, id="RoBERTa base"),
        pytest.param(roberta(1024), 24, ENCODER_TARGETS, 8, 1_572_864, id="RoBERTa large"),
        pytest.param(
            DebertaV2Config(hidden_size=1536, intermediate_size=6144, num_attention_heads=24),
            48,
            ENCODER_TARGETS,
            16,
            9_437_184,
            id="DeBERTa XXL",
        ),
        # The paper adapts the thirds of q and v, r (d + d) each. The whole fused layer, r (d + 3 d), has the
        # same number of parameters by accident, and is another function.
        pytest.param(GPT2Config(n_embd=1024, n_head=16), 24, ["c_attn"], 4, 786_432, id="GPT2-M"),
        pytest.param(GPT2Config(n_embd=1280, n_head=20), 36, ["c_attn"], 4, 1_474_560, id="GPT2-L"),
    ],
)
def test_parameter_counts(
    config: PretrainedConfig, layers: int, targets: list[str], rank: int, expected: int
) -> None:
    config.num_hidden_layers = 1  # all layers are alike
    with torch.device("meta"):
        model = get_peft_model(
            AutoModel.from_config(config), DualLoraConfig(magnitude_rank=rank, target_modules=targets)
        )
    assert layers * model.get_nb_trainable_parameters()[0] == expected
    with torch.device("meta"):
        fixed = get_peft_model(
            AutoModel.from_config(config),
            DualLoraConfig(magnitude_rank=2 * rank, direction="fixed", target_modules=targets),
        )
    assert layers * fixed.get_nb_trainable_parameters()[0] == expected


def gradients(model: PeftModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    return {name: p.grad.clone() for name, p in adapter_parameters(model).items()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(
    use_reentrant: bool, dual_llama: Make, tokens: Tensor
) -> None:
    model = dual_llama()
    expected = gradients(model, tokens)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    for name, gradient in gradients(model, tokens).items():
        assert torch.equal(gradient, expected[name])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("variant", ["paper", "xnor", "fixed", "subtract"])
def test_compiles_whole(variant: str, backend: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(20, 12), torch.nn.Tanh(), torch.nn.Linear(12, 4))
    config = DualLoraConfig(magnitude_rank=2, init_std=0.5, target_modules=["0", "2"], **VARIANTS[variant])
    model = get_peft_model(base, config).train()
    x = torch.randn(5, 20)
    expected = model(x)
    expected.square().sum().backward()
    eager = [p.grad.clone() for p in adapter_parameters(model).values()]
    model.zero_grad()
    y = torch.compile(model, backend=backend, fullgraph=True)(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close([p.grad for p in adapter_parameters(model).values()], eager)
