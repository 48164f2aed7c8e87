"""CorDA: LoRA whose factors start as components of the weight, weighted by the covariance of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from repro.methods.base import MethodError
from repro.methods.peft_method import PeftMethod, stores_transposed
from repro.models.saved import read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel
    from torch import Tensor, nn

    from repro.models.shapes import LinearShape

_START = "start.safetensors"


class CorDA(PeftMethod):
    """Context-oriented decomposition: W C = U S V^T with C = X X^T / N, and W = U S (V^T C^-1).

    r components become the factors; the rest of the weight is frozen.

    Attributes:
        rank: r, the components that are trained; the paper's GLUE row has 128.
        alpha: the update is scaled by alpha / r. The authors use alpha / r = 1; the initial model does not
            depend on it.
        component: `ipm` trains the largest components (better on the task), `kpm` the smallest (forgets
            less). These experiments measure fine-tuning, hence `ipm`.
        samples: number of training examples for C; 256 as in the authors' code.
    """

    label: ClassVar[str] = "CorDA"
    citation: ClassVar[str] = (
        "Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for "
        "Task-Aware Parameter-Efficient Fine-tuning (NeurIPS 2024)"
    )

    # The frozen weight of a trained model is the base's without the initial factors; only from the base can
    # be told whether `load` finds the same.
    loads_anew: ClassVar[bool] = True

    name: Literal["corda"] = "corda"
    rank: int = Field(default=128, gt=0)
    alpha: float = Field(default_factory=lambda settings: float(settings.get("rank", 0)), gt=0)
    component: Literal["ipm", "kpm"] = "ipm"
    samples: int = Field(default=256, ge=1, le=10**6)

    @property
    def calibration_examples(self) -> int:
        return self.samples

    def peft_config(self, targets: Sequence[str], task_type: str, model: nn.Module) -> LoraConfig:
        from peft import LoraConfig
        from peft.tuners.lora.config import CordaConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft takes any number
            target_modules=list(targets),
            task_type=task_type,
            fan_in_fan_out=stores_transposed(model, targets),
            init_lora_weights="corda",
            corda_config=CordaConfig(corda_method=self.component),
        )

    def calibrate(
        self, model: nn.Module, inputs: Sequence[dict[str, Tensor]], targets: Sequence[str], task_type: str
    ) -> None:
        from peft.tuners.lora.corda import preprocess_corda

        if not inputs:
            raise MethodError("corda: no training example to calibrate on; give it at least one")
        device = next(model.parameters()).device

        def run() -> None:
            # One at a time: peft's hook assumes a batch of one.
            for batch in inputs:
                model(**{name: tensor.to(device) for name, tensor in batch.items()})

        preprocess_corda(model, self.peft_config(targets, task_type.upper(), model), run_model=run)

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        if not any(hasattr(module, "eigens") for module in model.modules()):
            raise MethodError("corda: the model was not calibrated; call `calibrate` before `attach`")
        return super().attach(model, targets, task_type)

    def build(self, model: nn.Module, config: PeftConfig) -> PeftModel:
        built = super().build(model, config)
        for layer in self.adapted_layers(built):
            for factor in ("A", "B"):
                weight = getattr(layer, f"lora_{factor}")["default"].weight
                layer.register_buffer(f"start_{factor}", weight.detach().clone())
        return built

    def layer_class(self) -> type:
        from peft.tuners.lora import Linear

        return Linear

    def adapter_parameters(self, shape: LinearShape) -> int:
        return self.rank * (shape.out_features + shape.in_features)

    def save(self, model: nn.Module, directory: Path) -> None:
        """Saves the adapter, and the initial factors, which were subtracted from the frozen weight."""
        from safetensors.torch import save_file

        super().save(model, directory)
        start = {name: tensor for name, tensor in model.state_dict().items() if _is_start(name)}
        save_file({name: tensor.contiguous().cpu() for name, tensor in start.items()}, directory / _START)

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        import torch
        from peft.tuners.lora import Linear as LoraLinear

        model = super().load(base_model, directory, targets, task_type)
        expected = {name: tensor for name, tensor in model.state_dict().items() if _is_start(name)}
        start = read_tensors(directory / _START, expected)
        with torch.no_grad():
            for name, layer in model.named_modules():
                if not isinstance(layer, LoraLinear):
                    continue
                a, b = (start[f"{name}.start_{factor}"] for factor in ("A", "B"))
                weight: Any = layer.get_base_layer().weight
                removed = self.alpha / self.rank * b.float() @ a.float()
                removed = removed.T if layer.fan_in_fan_out else removed
                weight.copy_((weight.float() - removed.to(weight.device)).to(weight.dtype))
                for factor, tensor in (("A", a), ("B", b)):
                    layer.register_buffer(f"start_{factor}", tensor.to(weight.device))
        return model

    def loading_config(
        self, model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> PeftConfig:
        config: Any = super().loading_config(model, directory, targets, task_type)
        # Without a new decomposition: its result is in the file.
        config.init_lora_weights, config.corda_config = True, None
        return config


def _is_start(name: str) -> bool:
    return name.split(".")[-1] in ("start_A", "start_B")
