"""Peak memory of operations whose tensors are known."""

import torch

from repro.speed.peak_memory import peak_bytes

KIB = 256  # elements of fp32


def test_what_is_freed_does_not_count_and_what_is_held_does() -> None:
    held = torch.zeros(10 * KIB)

    def work() -> None:
        for _ in range(5):
            torch.ones(4 * KIB)
        (torch.ones(KIB) + torch.ones(2 * KIB)[:KIB]).add_(1)

    assert peak_bytes(work, [held, held[:5]]) == 1024 * (10 + 4)


def test_what_a_backward_pass_needs_counts_until_then() -> None:
    """y = exp(exp(x)) keeps both results, and the gradient of each is one more."""
    x = torch.zeros(KIB, requires_grad=True)
    assert peak_bytes(lambda: x.exp().exp(), [x]) == 3 * 1024
    assert 4 * 1024 <= peak_bytes(lambda: x.exp().exp().sum().backward(), [x]) <= 6 * 1024
