"""What peft's tests ask of every tuner and ours do not do, each with the reason."""

from __future__ import annotations

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """Tests that fail. Regular expressions name the test's function, its parameters, and the error."""

    tuner: str
    reason: str
    test: str
    parameters: str
    error: str

    def covers(self, tuner: str, test: str) -> bool:
        """Whether a test with that name, such as `test_merge[mora one layer]`, is among them."""
        function, _, parameters = test.partition("[")
        return (
            tuner == self.tuner
            and re.fullmatch(self.test, function) is not None
            and re.search(self.parameters, parameters) is not None
        )


REFUSALS = [
    Refusal(
        "dual_lora",
        "dW is not zero at the start: all factors are Gaussian, and in evaluation dW has its full strength. "
        "Only warmup='subtract_initial' starts as the base model.",
        r"test_disable_adapters(_with_merging)?",
        r"^dual_lora (?!less its start)",
        r"AssertionError",
    ),
    Refusal(
        "bottleneck",
        "A network that is not linear in its input cannot be merged into a weight.",
        r"test_merge_layers(_fp16|_nan|_multi|_is_idempotent|_is_deterministic_in_train_mode)?|test_safe_merge"
        r"|test_forward_b?float16(_no_autocast)?|test_disable_adapters_with_merging"
        r"|test_delete_merged_adapter_.*|test_multiple_active_adapters_merge_and_unmerge"
        r"|test_sequential_merge_matches_batch_merge|test_unmerge_after_sequential_merge_restores_base",
        r"",
        r"not linear in its input, so it cannot be merged",
    ),
    Refusal(
        "bottleneck",
        "Both projections are Gaussian, as in the papers: the start is near the base model, not equal to it.",
        r"test_disable_adapters",
        r"",
        r"AssertionError",
    ),
    Refusal(
        "bottleneck",
        "It has default targets for LLaMA alone, those of LLM-Adapters; LoRA's are other layers.",
        r"test_default_target_modules_(list_of_)?str",
        r"",
        r"Please specify `target_modules`",
    ),
]
