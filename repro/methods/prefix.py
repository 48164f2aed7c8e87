"""Prefix tuning: trained keys and values before the text, in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from repro.methods.base import MethodError
from repro.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import PeftModel, PrefixTuningConfig
    from torch import Tensor, nn

    from repro.models.shapes import LinearShape

_VALUES = ("v_proj", "value")


class Prefix(PeftMethod):
    """Keys and values of virtual tokens, trained directly.

    Attributes:
        virtual_tokens: key-value pairs in each layer. The LoRA paper does not give the number for its Prefix
            row, and no whole number gives its 0.35 M and 0.77 M parameters (7.2 and 8.4 would).
        init_std: keys and values start as N(0, init_std^2). peft draws them from N(0, 1), which overwhelms
            the text: on SmolLM2-135M the first loss is then 10.8, with Dual LoRA 4.3.
    """

    label: ClassVar[str] = "Prefix"
    citation: ClassVar[str] = (
        "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation (ACL 2021)"
    )
    mergeable: ClassVar[bool] = False
    # transformers passes no cache, which holds the prefix, to a block whose activations are recomputed.
    recomputes: ClassVar[bool] = False

    name: Literal["prefix"] = "prefix"
    virtual_tokens: int = Field(default=7, ge=1, le=2**14)
    init_std: float = Field(default=0.02, gt=0)

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> PrefixTuningConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(num_virtual_tokens=self.virtual_tokens, task_type=task_type)

    def check_model_type(self, model_type: str) -> None:
        if model_type.startswith("deberta"):
            raise MethodError(
                f"prefix: {model_type} cannot attend to keys and values before the text; use another method, "
                "or BERT, RoBERTa, LLaMA or GPT-2"
            )

    def layer_class(self) -> type:
        raise MethodError("prefix: adapts no layer")

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        from peft import get_peft_model
        from torch import nn

        self.check_model_type(str(model.config.model_type))  # type: ignore[union-attr]
        config = self.peft_config(targets, task_type.upper(), model)
        adapted: Any = get_peft_model(model, config)
        nn.init.normal_(adapted.prompt_encoder["default"].embedding.weight, std=self.init_std)
        return _installed(adapted, task_type)

    def saved(self, model: nn.Module) -> tuple[str, dict[str, Tensor]]:
        file, tensors = super().saved(model)  # the embeddings among them are a copy
        prefix: Any = model.prompt_encoder["default"]  # type: ignore[index]
        return file, tensors | {"prompt_embeddings": prefix.embedding.weight}

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        loaded: Any = super().load(base_model, directory, targets, task_type)
        return _installed(loaded.eval(), task_type)

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        return []

    def adapted_layers(self, model: nn.Module) -> list[nn.Module]:
        return []

    def adapter_parameters(self, shape: LinearShape) -> int:
        """Parameters of one layer; `shape` is its value map, with as many outputs as a key or a value."""
        return 2 * self.virtual_tokens * shape.out_features

    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        values = [shape for shape in shapes if shape.name.split(".")[-1] in _VALUES]
        if not values:
            raise MethodError(
                f"prefix: needs {' or '.join(_VALUES)} among the targets, to know the layers' width"
            )
        return sum(self.adapter_parameters(shape) for shape in values)


def _installed(model: PeftModel, task_type: str) -> PeftModel:
    from repro.adapters.prefix import install_prefix

    # An encoder is always called through peft's wrapper, which adds the prefix.
    return install_prefix(model) if task_type == "causal_lm" else model
