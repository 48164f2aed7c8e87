"""Embeddings, convolutions and experts against dense float64 layers, and the life of their adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from repro.adapters.dual_lora import DualLoraConfig, DualLoraLayer, Update
from repro.adapters.dual_lora.parameters import ParamWrapper
from tests.adapters.dual_lora.reference import reference_delta, reference_gradients


class Scaled(nn.Embedding):
    """As Gemma's: peft knows the attribute."""

    embed_scale = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.embed_scale


class Shifted(nn.Embedding):
    """As OPT's positions: a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + 1) % self.num_embeddings)


class Experts(nn.Module):
    """Two parameters for three experts, each used by one row of the input; (in, out) if transposed."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.is_transposed = transposed
        up, down = torch.randn(3, 7, 5), torch.randn(3, 5, 7)
        self.up = nn.Parameter(up.mT.contiguous() if transposed else up)
        self.down = nn.Parameter(down.mT.contiguous() if transposed else down)

    def forward(self, x: Tensor) -> Tensor:
        up, down = (W if self.is_transposed else W.mT for W in (self.up, self.down))
        return torch.bmm(torch.bmm(x, up).tanh(), down)


EMBEDDINGS: dict[str, Callable[[], nn.Module]] = {
    "embedding": lambda: nn.Embedding(11, 6),
    "padding": lambda: nn.Embedding(11, 6, padding_idx=3),
    "by frequency": lambda: nn.Embedding(11, 6, scale_grad_by_freq=True),
    "scaled": lambda: Scaled(11, 6, padding_idx=-8),
    "shifted": lambda: Shifted(11, 6),
}
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2), padding=2, padding_mode="reflect"),
    "conv2d 1x1": lambda: nn.Conv2d(4, 6, 1, bias=False, padding_mode="circular"),
    "conv3d": lambda: nn.Conv3d(4, 6, 3, padding="same"),
}
KINDS = EMBEDDINGS | CONVOLUTIONS
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "bnn": {"clip": "bnn"},
    "xnor": {"sign_estimator": "xnor"},
    "dorefa": {"sign_estimator": "dorefa"},
    "fixed": {"direction": "fixed"},
    "subtract": {"warmup": "subtract_initial"},
}
kinds = pytest.mark.parametrize("kind", KINDS)
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def inputs(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind in EMBEDDINGS:
        return torch.tensor([[3, 1, 1, 0], [9, 3, 7, 1]])  # some tokens twice, and the padding
    sides = {"conv1d": (5,), "conv3d": (3, 4, 5)}.get(kind, (6, 7))
    return torch.randn(2, 4, *sides, generator=generator)


def adapt(base: nn.Module, **fields: Any) -> Any:
    settings = {"magnitude_rank": 2, "direction_rank": 3, "alpha": 6.0, "init_std": 0.5, "warmup": "none"}
    if fields.get("direction") == "fixed":
        settings["direction_rank"] = None
    target = {} if "target_parameters" in fields else {"target_modules": ["0"]}
    return get_peft_model(nn.Sequential(base), DualLoraConfig(**(settings | target | fields)))


def made(kind: str, **fields: Any) -> tuple[nn.Module, Any, Any]:
    """The base layer, the adapted model and its layer, whose factors have left their start."""
    torch.manual_seed(0)
    base = KINDS[kind]()
    model = adapt(base, **fields)
    layer = next(module for module in model.modules() if isinstance(module, DualLoraLayer))
    move(layer)
    return base, model, layer


@torch.no_grad()
def move(layer: Any) -> None:
    for group in "ABCD":
        for factor in getattr(layer, f"dual_lora_{group}").values():
            factor.add_(0.3 * torch.randn_like(factor))


def gradient(layer: Any, name: str) -> Tensor:
    found: Tensor = getattr(layer, f"dual_lora_{name}")["default"].grad
    return found.double()


@variants
@kinds
def test_output_and_gradients_are_those_of_the_dense_layer(kind: str, variant: dict[str, Any]) -> None:
    base, model, layer = made(kind, **variant)
    dense, x = copy.deepcopy(base).double(), inputs(kind)
    updates = layer.updates("default")
    delta = sum(reference_delta(u)[0].detach() for u in updates)
    dense.weight = nn.Parameter(dense.weight.detach() + delta.view(base.weight.shape))
    expected = dense(x if kind in EMBEDDINGS else x.double())
    y = model(x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(dy)
    expected.backward(dy.double())
    G = dense.weight.grad.flatten(1)
    for name, wanted in reference_gradients(updates[0], G).items():
        torch.testing.assert_close(gradient(layer, name), wanted.double(), rtol=1e-4, atol=1e-4)
        assert wanted.any()
    assert layer.get_delta_weight("default").shape == base.weight.shape


@variants
@kinds
def test_merging_and_saving(kind: str, variant: dict[str, Any], tmp_path: Path) -> None:
    base, model, _ = made(kind, **variant)
    x, weight = inputs(kind), base.weight.detach().clone()
    model.eval()
    with torch.no_grad():
        expected, plain = model(x), base(x)
        assert not torch.allclose(expected, plain, atol=1e-2)
        model.save_pretrained(tmp_path)
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(nn.Sequential(KINDS[kind]()), tmp_path)
        torch.testing.assert_close(loaded.eval()(x), expected, rtol=0, atol=0)
        model.merge_adapter(safe_merge=True)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        assert torch.equal(base.weight, weight) and torch.equal(model(x), expected)
        with model.disable_adapter():
            assert torch.equal(model(x), plain)
        torch.testing.assert_close(model.merge_and_unload()(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["embedding", "conv2d"])
def test_the_ramp_and_other_layers_count_alike(kind: str) -> None:
    base, model, _ = made(kind, warmup="ramp", warmup_steps=10)
    x = inputs(kind)
    with torch.no_grad():
        ramped = model.train()(x) - base(x)
        torch.testing.assert_close(10 * ramped, model.eval()(x) - base(x), rtol=1e-3, atol=1e-3)


def test_only_the_rows_of_the_batch_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, layer = made("embedding")
    from repro.adapters.dual_lora import embedding

    rows: list[int] = []
    whole = embedding.dual_lora_weight
    monkeypatch.setattr(
        embedding, "dual_lora_weight", lambda W, updates: rows.append(len(W)) or whole(W, updates)
    )
    model(torch.tensor([4, 4, 2])).sum().backward()
    assert rows == [2]
    assert gradient(layer, "B").any(1).nonzero().flatten().tolist() == [2, 4]
    assert model(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3, 6)


def test_a_language_model_with_an_adapted_embedding(
    base_llama: Callable[[], LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    settings = {"target_modules": ["embed_tokens", "q_proj"], "init_weights": False, "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model = get_peft_model(base_llama(), DualLoraConfig(r=2, **settings))
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        assert not torch.allclose(expected, base_llama()(tokens).logits, atol=1e-3)
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        loaded = PeftModel.from_pretrained(base_llama(), tmp_path).eval()
        assert torch.equal(loaded(tokens).logits, expected)
        mixed = model(tokens, adapter_names=["default", "__base__"]).logits
        torch.testing.assert_close(mixed[0], expected[0])
        torch.testing.assert_close(mixed[1], base_llama()(tokens).logits[1])
        torch.testing.assert_close(model.merge_and_unload()(tokens).logits, expected)


def expert_of(update: Update, e: int) -> Update:
    fields = {name: getattr(update, name) for name in ("A", "B", "C", "D", "seed")}
    return update._replace(**{name: value if value is None else value[e] for name, value in fields.items()})


@pytest.mark.parametrize("transposed", [False, True])
@variants
def test_experts_are_those_of_the_dense_parameters(transposed: bool, variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    base = Experts(transposed)
    model = adapt(base, target_parameters=["0.up", "0.down"], **variant)
    layers = {m.parameter_name: m for m in model.modules() if isinstance(m, ParamWrapper)}
    assert set(layers) == {"up", "down"}
    dense = copy.deepcopy(base).double().requires_grad_()
    for name, layer in layers.items():
        move(layer)
        deltas = [
            sum(reference_delta(expert_of(u, e))[0].detach() for u in layer.updates("default"))
            for e in range(3)
        ]
        delta = torch.stack(deltas)
        delta = delta.mT if transposed else delta
        torch.testing.assert_close(layer.get_delta_weight("default").double(), delta, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            getattr(dense, name).add_(delta)
    x = torch.randn(3, 4, 5)
    y, expected = model(x), dense(x.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, layer in layers.items():
        G = getattr(dense, name).grad
        for e, matrix in enumerate(G.mT if transposed else G):
            found = reference_gradients(expert_of(layer.updates("default")[0], e), matrix)
            for factor, wanted in found.items():
                torch.testing.assert_close(gradient(layer, factor)[e], wanted.double(), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [*KINDS, "experts"])
def test_a_gpu_gives_what_the_cpu_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # on by default, for convolutions
    if kind == "experts":
        torch.manual_seed(0)
        model, x = adapt(Experts(False), target_parameters=["0.up", "0.down"]), torch.randn(3, 4, 5)
    else:
        model, x = made(kind)[1], inputs(kind)
    found = []
    for device in ("cpu", "cuda"):
        model.zero_grad()
        y = model.to(device)(x.to(device))
        y.square().sum().backward()
        found.append([y.cpu(), *(p.grad.cpu() for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_a_mixture_of_experts(tokens: Tensor, tmp_path: Path) -> None:
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=31, num_local_experts=3, num_key_value_heads=2, **size)

    def base() -> MixtralForCausalLM:
        torch.manual_seed(0)
        return MixtralForCausalLM(config).eval()

    fields = {
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "target_modules": ["q_proj"],
    }
    model = get_peft_model(base(), DualLoraConfig(r=2, init_weights=False, **fields))
    assert sum(isinstance(m, ParamWrapper) for m in model.modules()) == 2 * 2
    # Each of 2 layers: 3 experts, two ranks of 2, and (d + k) of both parameters; and q_proj's.
    assert model.get_nb_trainable_parameters()[0] == 2 * 4 * (3 * (48 + 16) + 3 * (16 + 24) + (16 + 16))
    model.train()(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.add_adapter("second", DualLoraConfig(r=1, init_weights=False, **fields))
    assert sum(isinstance(m, ParamWrapper) for m in model.modules()) == 2 * 2
    with torch.no_grad():
        expected, plain = model.eval()(tokens).logits, base()(tokens).logits
        assert not torch.allclose(expected, plain, atol=1e-3)
        model.set_adapter("second")
        assert not torch.allclose(model(tokens).logits, expected, atol=1e-3)
        model.set_adapter("default")
        model.save_pretrained(tmp_path, selected_adapters=["default"])
        loaded = PeftModel.from_pretrained(base(), tmp_path, low_cpu_mem_usage=True).eval()
        assert torch.equal(loaded(tokens).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(tokens).logits, plain)
        assert torch.equal(copy.deepcopy(model).unload()(tokens).logits, plain)
        with pytest.raises(ValueError, match="adapter_names is not possible with target_parameters"):
            model(tokens, adapter_names=["default", "second"])
        merged = model.merge_and_unload()
        assert not [m for m in merged.modules() if isinstance(m, DualLoraLayer)]
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_target_parameters_that_are_refused() -> None:
    base = Experts(False)
    model = adapt(base, target_parameters=["0.up"])
    with pytest.raises(ValueError, match=r"must have the same target_parameters .got .*'0.down'"):
        model.add_adapter("second", DualLoraConfig(target_parameters=["0.down"]))
    with pytest.raises(ValueError, match=r"weight of a Conv2d has shape .4, 3, 2, 2.: Dual LoRA adapts"):
        adapt(nn.Conv2d(3, 4, 2), target_parameters=["0.weight"])


class Stack(nn.Module):
    """Stacked weights that are no module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(2, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bi->beo", self.stack, x).sum(1)


class Doubled(nn.Embedding):
    """An embedding with a forward pass of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("layer", "inputs", "where"),
    [
        (lambda: nn.Conv1d(3, 4, 2), torch.randn(2, 3, 5), {"target_modules": ["0"]}),
        (lambda: nn.Conv2d(3, 4, 2), torch.randn(2, 3, 5, 5), {"target_modules": ["0"]}),
        (lambda: nn.Embedding(9, 6), torch.arange(6).view(2, 3), {"target_modules": ["0"]}),
        (lambda: Doubled(9, 6), torch.arange(6).view(2, 3), {"target_modules": ["0"]}),
        (Stack, torch.randn(3, 6), {"target_parameters": ["0.stack"]}),
    ],
    ids=["Conv1d", "Conv2d", "embedding", "embedding of its own", "experts"],
)
def test_every_kind_is_adapted_under_fsdp1(layer: Any, inputs: Tensor, where: Any, tmp_path: Path) -> None:
    """FSDP1 keeps the whole weight beside the registered parameter, where a module finds it first."""
    torch.manual_seed(0)
    config = DualLoraConfig(magnitude_rank=2, init_std=0.5, warmup="none", **where)
    plain = get_peft_model(nn.Sequential(layer()), config)
    expected = plain(inputs)
    expected.square().sum().backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        copied = copy.deepcopy(plain)
        copied.zero_grad()
        wrapped = FullyShardedDataParallel(copied, device_id=torch.device("cpu"), use_orig_params=True)
        output = wrapped(inputs)
        output.square().sum().backward()
        gradients = [p.grad for p in wrapped.parameters() if p.requires_grad]
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(output, expected)
    with plain.disable_adapter():
        assert not torch.allclose(plain(inputs), expected, atol=0.01)
    for found, parameter in zip(gradients, (p for p in plain.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(found, parameter.grad)
