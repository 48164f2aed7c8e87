"""The base class of the models of all tuners in this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .layer import BASE, AdapterLayer


class AdapterModel(BaseTuner):
    """A tuner whose adapters can share a batch row by row, as LoRA's can, and that averages none.

    Adapters are in fp32 or, with `autocast_adapter_dtype=False`, in the dtype of their layers.
    """

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        handles = []
        if (adapter_names := kwargs.get("adapter_names")) is not None:
            self._check_rows(adapter_names)
            for module, names in self._rows(adapter_names, kwargs.get("num_beams") or 1):
                hook = partial(_pass_names, names)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_rows(self, adapter_names: Sequence[str]) -> None:
        if self.training:
            raise ValueError("adapter_names is not possible in training mode; call model.eval().")
        known = [*self.peft_config, BASE]
        for name in adapter_names:
            if name not in known:
                raise ValueError(f"adapter_names has {name!r}, which is none of {', '.join(known)}.")

    def _rows(self, adapter_names: Sequence[str], beams: int) -> Iterator[tuple[nn.Module, list[str]]]:
        """Each adapted module with the adapter of each row; beam search repeats the rows of a decoder."""
        model: Any = self.model
        encoder = model.get_encoder() if hasattr(model, "get_encoder") else None
        encoding = set() if encoder is None or encoder is model else set(encoder.modules())
        for module in self.modules():
            if isinstance(module, AdapterLayer | AuxiliaryTrainingWrapper):
                times = 1 if module in encoding else beams
                yield module, [name for name in adapter_names for _ in range(times)]

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            for layer in self.model.modules():
                if isinstance(layer, AdapterLayer):
                    layer.cast_to_base_dtype(adapter_name)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError: a weighted sum of adapters is not an adapter of the same form."""
        raise NotImplementedError(
            f"{type(self).__name__} has no add_weighted_adapter: a sum of its adapters is not an adapter of "
            "the same form. base_model.set_adapter([...]) activates several, whose outputs are then summed."
        )


def _pass_names(names: list[str], module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return args, {**kwargs, "adapter_names": names}
