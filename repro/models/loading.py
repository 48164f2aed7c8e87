"""Loads a model and its tokenizer, and checks both against the model's description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from repro import hub
from repro.config import ConfigError, one_of
from repro.models.gpt2 import split_attention_inputs
from repro.models.head import without_head
from repro.models.packages import checkpoint_folder, package_file
from repro.models.quantization import quantize
from repro.models.shapes import base_parameters, linear_shapes
from repro.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Task = Literal["causal_lm", "seq_cls"]


def load_model(
    spec: ModelSpec, task: Task, dtype: torch.dtype | None = None, num_labels: int | None = None
) -> PreTrainedModel:
    """The pretrained model for a task, on the CPU, in evaluation mode.

    Args:
        spec: the model's description.
        task: `causal_lm`, or for an encoder `seq_cls`; a classifier's head is drawn from torch's generator.
        dtype: of the weights; float32 by default.
        num_labels: size of the classifier's output, with `seq_cls` only.

    Raises:
        ConfigError: the checkpoint cannot be loaded, or differs from the description.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    if (task == "causal_lm") != spec.causal:
        kind, fitting = ("a causal model", "causal_lm") if spec.causal else ("an encoder", "seq_cls")
        raise ConfigError(f"model {spec.name} is {kind}; its task is {fitting!r} (got {task!r})")
    if (task == "seq_cls") != (num_labels is not None):
        raise ConfigError(
            f"task {task!r} with num_labels {num_labels}: `seq_cls` needs a number, other tasks need None"
        )
    auto_class = AutoModelForCausalLM if task == "causal_lm" else AutoModelForSequenceClassification
    head: dict[str, Any] = {} if num_labels is None else {"num_labels": num_labels}
    dtype = dtype or torch.float32
    if spec.source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = auto_class.from_config(AutoConfig.for_model(**spec.architecture, **head)).to(dtype)
    else:
        model = _from_pretrained(auto_class, spec, dtype=dtype, **head)
    if spec.architecture["model_type"] == "gpt2":
        split_attention_inputs(model)
    _check_architecture(model, spec)
    if spec.quantization is not None:
        quantize(model, spec)
    # Adapters save this as the name of their base. A local cache folder would be useless on other machines.
    model.name_or_path = model.config._name_or_path = spec.checkpoint or spec.name
    return model.eval()


def check_available(spec: ModelSpec) -> None:
    """Check, without loading a model, that its package or its hub checkpoint is there.

    Raises:
        ConfigError: it is not installed, not in the hub's cache while offline, or gated.
    """
    if spec.source == "package":
        package_file(spec)
    elif spec.source == "hub":
        import huggingface_hub

        reason = hub.offline()  # asked first: whatever is loaded from the cache then waits for no network
        if hub.model_is_cached(repository(spec)):
            return
        try:
            if reason is not None:
                raise OSError(f"it is not whole in {huggingface_hub.constants.HF_HUB_CACHE}, and {reason}")
            huggingface_hub.hf_hub_download(spec.checkpoint, "config.json", revision=spec.revision)
        except Exception as error:  # offline, gated, renamed: of many unrelated classes
            raise _not_loaded(spec, error) from error


def repository(spec: ModelSpec) -> hub.Repository:
    """Where a model of the hub is."""
    return hub.Repository("model", spec.checkpoint, spec.revision, spec.gated)


def loaded_revision(spec: ModelSpec) -> str:
    """The commit in the hub's cache from which a model is loaded; of other sources the checkpoint's name."""
    folder = hub.cached_folder(repository(spec)) if spec.source == "hub" else None
    return folder.name if folder is not None else spec.checkpoint or spec.name


def meta_model(spec: ModelSpec, task: Task) -> PreTrainedModel:
    """The model on the meta device, without weights: even 70 billion of them take no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    auto_class = AutoModelForCausalLM if task == "causal_lm" else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = auto_class.from_config(AutoConfig.for_model(**spec.architecture))
        if spec.architecture["model_type"] == "gpt2":
            split_attention_inputs(model)
    return model


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which pads as the description says.

    Raises:
        ConfigError: the tokenizer cannot be loaded, or cannot pad like that.
    """
    from transformers import AutoTokenizer

    tokenizer = byte_tokenizer() if spec.source == "random" else _from_pretrained(AutoTokenizer, spec)
    token, side = spec.padding.token, spec.padding.side
    special = {added.content for added in tokenizer.added_tokens_decoder.values() if added.special}
    if token not in special:
        raise ConfigError(f"model {spec.name}: {one_of('special token to pad with', token, special)}")
    tokenizer.pad_token = token
    tokenizer.padding_side = side
    masks = tokenizer(["a", "a b c d"], padding=True)["attention_mask"]
    if masks[0] != sorted(masks[0], reverse=side == "right") or 0 not in masks[0]:
        raise ConfigError(
            f"model {spec.name}: the tokenizer does not pad on the {side}; its mask is {masks[0]}"
        )
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer without files: one token per byte, LLaMA's special tokens, and `<s>` before each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _from_pretrained(auto_class: Any, spec: ModelSpec, **settings: Any) -> Any:
    """Load with transformers, from a package's folder or from the hub."""
    if spec.source == "package":
        return auto_class.from_pretrained(checkpoint_folder(spec), **settings)
    try:
        return auto_class.from_pretrained(spec.checkpoint, revision=spec.revision, **settings)
    except (OSError, ValueError) as error:
        raise _not_loaded(spec, error) from error


def _not_loaded(spec: ModelSpec, error: Exception) -> ConfigError:
    advice = hub.how_to_get(repository(spec), error)
    return ConfigError(f"model {spec.name}: {spec.checkpoint} cannot be loaded: {advice}")


def _check_architecture(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Compare a loaded model with its description: every linear map, and the number of parameters."""
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    for shape in linear_shapes(spec.architecture):
        module = modules.get(shape.name)
        found = () if module is None else tuple(module.weight.shape)
        if isinstance(module, Conv1D):
            found = found[::-1]
        if found != (shape.out_features, shape.in_features):
            raise ConfigError(
                f"model {spec.name}: {shape.name} has the shape {found}, its description says "
                f"{(shape.out_features, shape.in_features)}"
            )
    found_parameters = sum(parameter.numel() for parameter in without_head(model, model.parameters()))
    expected = base_parameters(spec.architecture)
    if found_parameters != expected:
        raise ConfigError(
            f"model {spec.name} has {found_parameters:,} parameters, its description says {expected:,}"
        )
