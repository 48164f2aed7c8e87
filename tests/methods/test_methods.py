"""Requirements on every method: it builds and trains what it says, and can be saved, loaded and merged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from repro.config import ConfigError
from repro.methods import METHODS, Method, MethodError, OptimizerSettings
from repro.models import base_parameters, linear_shapes, load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-llama")
TARGETS = SPEC.targets_for("commonsense")
SHAPES = linear_shapes(SPEC.architecture, TARGETS)
BASE_PARAMETERS = base_parameters(SPEC.architecture)
BASE = load_model(SPEC, "causal_lm")
SETTINGS = OptimizerSettings(learning_rate=1e-2)

TOKENS = torch.arange(4, 36).reshape(2, 16)

# Without dropout and ramp, so that a model computes the same in training and in evaluation. Delta-LoRA starts
# to move its weights within the few steps that are taken here.
METHODS_WITHOUT_DROPOUT: dict[str, Method] = {
    name: cls(
        **{
            field: value
            for field, value in {"dropout": 0.0, "warmup": "none", "start_step": 1, "samples": 2}.items()
            if field in cls.model_fields
        },
        **({"rank": 8} if name == "corda" else {}),  # a weight has no more components than its smaller side
    )
    for name, cls in METHODS.items()
}
TRAINED = [name for name, cls in METHODS.items() if cls.trains]

# All their factors start as random numbers: the initial model is close to the base model, not equal to it.
STARTS_ELSEWHERE = {"adapter_l", "adapter_p", "dual_lora", "prefix"}

# Their initial factors are computed or zero, not random.
WITHOUT_CHANCE = {"corda", "mora"}

# They train the model's own weights and add none, so the start is not random.
ALL_WEIGHTS = {"fft", "galore", "garare"}


def attached(method: Method, seed: int = 0) -> nn.Module:
    base = copy.deepcopy(BASE)
    torch.manual_seed(seed)
    return calibrated(method, base).attach(base, TARGETS, "causal_lm").eval()


def calibrated(method: Method, base: nn.Module, targets: Sequence[str] = TARGETS) -> Method:
    """The method, calibrated if it needs examples."""
    if method.calibration_examples:
        inputs = [{"input_ids": TOKENS[:1]}, {"input_ids": TOKENS[1:]}]
        method.calibrate(base, inputs, targets, "causal_lm")
    return method


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def trained(method: Method) -> nn.Module:
    """Three steps, because some factors, such as LoRA's A, have no gradient in the first."""
    model = attached(method).train()
    optimizer = method.optimizer(model, SETTINGS)
    for _ in range(3):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS_WITHOUT_DROPOUT[request.param]


@pytest.fixture(params=TRAINED)
def trained_method(request: pytest.FixtureRequest) -> Method:
    return METHODS_WITHOUT_DROPOUT[request.param]


def test_what_is_built_is_what_the_name_says(method: Method) -> None:
    report = method.verify(attached(method), TARGETS, SHAPES, BASE_PARAMETERS)
    assert report.trainable_parameters == method.trainable_parameters(SHAPES, BASE_PARAMETERS)
    without = dict.fromkeys({"base", "prefix"} | ALL_WEIGHTS, 0)
    assert report.adapted_layers == (without | {"adapter_l": 2, "adapter_p": 4}).get(method.name, 10)
    added = 0 if method.name in ALL_WEIGHTS else report.trainable_parameters
    assert report.total_parameters == BASE_PARAMETERS + added


def test_the_start_is_the_base_model(method: Method) -> None:
    distance = (logits(attached(method)) - logits(BASE)).abs().max().item()
    if method.name in STARTS_ELSEWHERE:
        assert 1e-4 < distance < 1
    else:
        # CorDA's weight is a sum of two parts, hence rounded.
        assert distance <= (1e-5 if method.name == "corda" else 0)


def test_training_moves_every_trained_parameter_and_no_other(trained_method: Method) -> None:
    before = {key: p.detach().clone() for key, p in attached(trained_method).named_parameters()}
    for key, parameter in trained(trained_method).named_parameters():
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


def test_a_seed_decides_the_start(trained_method: Method) -> None:
    # Includes buffers that are not saved: RandLoRA's bases are drawn again from a saved seed.
    models = [attached(trained_method, seed) for seed in (0, 0, 1)]
    first, again, other = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in models)
    assert all(torch.equal(first[key], again[key]) for key in first)
    differs = any(not torch.equal(first[key], other[key]) for key in first)
    assert differs == (trained_method.name not in ALL_WEIGHTS | WITHOUT_CHANCE)


def test_saving_and_loading_keeps_the_function(trained_method: Method, tmp_path: Path) -> None:
    model = trained(trained_method)
    trained_method.save(model, tmp_path / "adapter")
    torch.manual_seed(99)
    loaded = trained_method.load(copy.deepcopy(BASE), tmp_path / "adapter", TARGETS, "causal_lm")
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), logits(BASE))
    expected = trained_method.verify(model, TARGETS, SHAPES, BASE_PARAMETERS)
    assert trained_method.verify(loaded, TARGETS, SHAPES, BASE_PARAMETERS) == expected


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [({"freeze_direction_after": 0.0}, "CD"), ({"freeze_magnitude": True}, "AB")],
    ids=str,
)
def test_frozen_factors_are_saved_and_not_counted(
    settings: dict[str, Any], frozen: str, tmp_path: Path
) -> None:
    method = METHODS["dual_lora"](magnitude_rank=4, warmup="none", **settings)
    model = trained(method)
    count = 4 * sum(shape.out_features + shape.in_features for shape in SHAPES)
    assert method.verify(model, TARGETS, SHAPES, BASE_PARAMETERS).trainable_parameters == count
    method.save(model, tmp_path)
    torch.manual_seed(99)
    loaded = method.load(copy.deepcopy(BASE), tmp_path, TARGETS, "causal_lm")
    ours = dict(loaded.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(ours[name], parameter)
        assert parameter.requires_grad == ours[name].requires_grad
        if "dual_lora" in name:
            assert parameter.requires_grad != any(f"dual_lora_{factor}" in name for factor in frozen)


def test_reloading_in_place_gives_what_the_file_says_to_the_last_bit(
    trained_method: Method, tmp_path: Path
) -> None:
    if trained_method.loads_anew:
        assert trained_method.name == "corda"
        return
    model = trained(trained_method)
    trained_method.save(model, tmp_path)
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    file, own = trained_method.saved(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    trained_method.reload(model, tmp_path)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    on_disk = load_file(tmp_path / file)
    assert on_disk.keys() == own.keys()
    # One number changed on the disk is changed in memory, and nothing else is.
    name = max(own, key=lambda name: own[name].numel())
    on_disk[name].view(-1)[0] += 1
    save_file(on_disk, tmp_path / file)
    trained_method.reload(model, tmp_path)
    changed = sum(int((tensor != expected[key]).sum()) for key, tensor in model.state_dict().items())
    assert changed == 1 and own[name].view(-1)[0] == on_disk[name].view(-1)[0]


def test_a_trained_tensor_without_a_place_in_the_file_is_refused(tmp_path: Path) -> None:
    method = METHODS_WITHOUT_DROPOUT["lora"]
    model = attached(method)
    method.save(model, tmp_path)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"adapter_model.safetensors: .*norm.weight is trained, and has no"):
        method.reload(model, tmp_path)


def test_matrices_from_another_seed_are_refused(tmp_path: Path) -> None:
    method = METHODS_WITHOUT_DROPOUT["randlora"]
    method.save(attached(method, seed=1), tmp_path)
    with pytest.raises(ConfigError, match=r"not of these settings .projection_prng_key is"):
        method.reload(attached(method, seed=0), tmp_path)


def test_merging_keeps_the_function_and_leaves_a_plain_model(trained_method: Method) -> None:
    model = trained(trained_method)
    expected = logits(model)
    if not trained_method.mergeable:
        with pytest.raises(MethodError, match=f"{trained_method.name}: cannot be merged"):
            trained_method.merge(model)
        return
    merged = trained_method.merge(model)
    assert type(merged) is type(BASE)
    assert {key: p.shape for key, p in merged.named_parameters()} == {
        key: p.shape for key, p in BASE.named_parameters()
    }
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "name",
    ["lora", "dora", "hira", "loha", "randlora", "vera", "dual_lora", "adapter_p", "adapter_l", "delta_lora"],
)
def test_another_method_than_named_is_refused(name: str) -> None:
    other = METHODS["lora"](rank=5) if name != "lora" else METHODS["dora"]()
    with pytest.raises(MethodError, match=f"^{name}: .* expected"):
        METHODS_WITHOUT_DROPOUT[name].verify(attached(other), TARGETS, SHAPES, BASE_PARAMETERS)


def test_a_forgotten_target_is_refused() -> None:
    method = METHODS["lora"]()
    model = method.attach(copy.deepcopy(BASE), TARGETS[:-1], "causal_lm")
    with pytest.raises(
        MethodError, match=r"lora: 8 layers were adapted on the targets q_proj.*, expected 10"
    ):
        method.verify(model, TARGETS, SHAPES, BASE_PARAMETERS)


def test_nothing_trained_needs_no_optimiser() -> None:
    base = METHODS["base"]()
    with pytest.raises(MethodError, match="nothing is trained"):
        base.optimizer(attached(base), SETTINGS)


def test_adapter_p_without_its_layers_is_refused() -> None:
    with pytest.raises(MethodError, match=r"none of its targets .up_proj, down_proj. is adapted"):
        METHODS["adapter_p"]().trainable_parameters(linear_shapes(SPEC.architecture, ["q_proj"]), 0)


def test_optimiser_settings_reach_the_optimiser() -> None:
    method = METHODS_WITHOUT_DROPOUT["lora"]
    settings = OptimizerSettings(learning_rate=3e-4, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    (group,) = method.optimizer(attached(method), settings).param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-4, (0.8, 0.9), 1e-6, 0.1)
    assert sum(p.numel() for p in group["params"]) == method.trainable_parameters(SHAPES, BASE_PARAMETERS)


def test_lora_plus_gives_b_a_multiple_of_as_learning_rate() -> None:
    method = METHODS["lora_plus"](learning_rate_ratio=8)
    model = attached(method)
    settings = OptimizerSettings(learning_rate=1e-4, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    groups = method.optimizer(model, settings).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates.pop(id(parameter)) == pytest.approx(8e-4 if "lora_B" in key else 1e-4), key
    assert not rates
    assert {(g["betas"], g["eps"], g["weight_decay"]) for g in groups if g["params"]} == {
        ((0.8, 0.9), 1e-6, 0.1)
    }


@pytest.mark.parametrize("name", ["galore", "garare"])
def test_galore_projects_the_linear_maps_of_the_blocks(name: str) -> None:
    method = METHODS[name](rank=3, update_gap=7, scale=0.5)
    settings = OptimizerSettings(learning_rate=3e-4, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    spec = load_model_spec("minilm-l6")
    for model, maps in [
        (attached(method), 2 * 7),
        (method.attach(load_model(spec, "seq_cls", num_labels=3), ["query"], "seq_cls"), 6 * 6),
    ]:
        projected, plain = method.optimizer(model, settings).param_groups
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        assert len(projected["params"]) == maps
        assert all(".layer" in names[id(p)] and p.dim() == 2 for p in projected["params"])
        assert not any(".layer" in names[id(p)] and p.dim() == 2 for p in plain["params"])
        assert {id(p) for group in (projected, plain) for p in group["params"]} == names.keys()
        assert (projected["rank"], projected["update_gap"], projected["scale"]) == (3, 7, 0.5)
        assert plain["rank"] is None
        for group in (projected, plain):
            assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.9), 1e-6)
            assert group["weight_decay"] == 0.1


def test_garares_projector_follows_the_runs_seed() -> None:
    method = METHODS["garare"](rank=2)
    models = []
    for seed in (0, 0, 1):
        models.append(attached(method, seed).train())
        optimizer = method.optimizer(models[-1], SETTINGS)
        models[-1](TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    first, again, other = map(logits, models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_classifiers_head_is_trained_and_not_counted() -> None:
    spec = load_model_spec("minilm-l6")
    targets = spec.targets_for("glue")
    shapes, total = linear_shapes(spec.architecture, targets), base_parameters(spec.architecture)
    for name in ("lora", "fft"):
        method = METHODS_WITHOUT_DROPOUT[name]
        model = method.attach(load_model(spec, "seq_cls", num_labels=3), targets, "seq_cls")
        expected = {"lora": 32 * 12 * (384 + 384), "fft": 22_713_216}[name]
        assert method.verify(model, targets, shapes, total).trainable_parameters == expected
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trained == expected + 3 * 384 + 3


def test_merging_leaves_a_head_of_several_layers_in_place(trained_method: Method) -> None:
    if not trained_method.mergeable:
        return
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = RobertaForSequenceClassification(RobertaConfig(vocab_size=40, **sizes)).eval()
    targets = ["query", "value"]
    model = calibrated(trained_method, base, targets).attach(base, targets, "seq_cls").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    expected = logits(model)
    merged = trained_method.merge(model)
    assert type(merged.classifier).__name__ == "RobertaClassificationHead"
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=2e-6)
