"""FFT: full fine-tuning, every weight of the model trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from repro.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repro.models.shapes import LinearShape

_FILE = "model.safetensors"


class FullFineTuning(Method):
    """All weights are trained, and the whole model is saved."""

    label: ClassVar[str] = "FFT"
    citation: ClassVar[str] = "the usual practice"
    flops_per_weight: ClassVar[int] = 6

    name: Literal["fft"] = "fft"

    def attach(self, model: nn.Module, targets: Sequence[str], task_type: str) -> nn.Module:
        # Trained weights are fp32: with bf16's 8 significant bits most AdamW steps would round to nothing.
        return model.float().requires_grad_(True)

    def trainable_parameters(self, shapes: Sequence[LinearShape], base_parameters: int) -> int:
        return base_parameters

    def adapted(self, shapes: Sequence[LinearShape]) -> list[LinearShape]:
        return []

    def save(self, model: nn.Module, directory: Path) -> None:
        from safetensors.torch import save_model

        directory.mkdir(parents=True, exist_ok=True)
        save_model(model, str(directory / _FILE))

    def saved(self, model: nn.Module) -> tuple[str, dict[str, Tensor]]:
        state = model.state_dict()
        # Of tied weights the file has the first name alone, as safetensors' `save_model` chooses it.
        first = {tensor.data_ptr(): name for name, tensor in sorted(state.items(), reverse=True)}
        return _FILE, {name: state[name] for name in first.values()}

    def load(
        self, base_model: nn.Module, directory: Path, targets: Sequence[str], task_type: str
    ) -> nn.Module:
        model = self.attach(base_model, targets, task_type)
        self.restore(model, directory)
        return model
