"""Test items that are trained on as well."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from repro.training.data import DataError

# OpenBookQA has the largest share of the public sets: 14 of 500, their options in another order.
ALLOWED = 0.05


def overlap_warnings(
    name: str, trained: Iterable[Hashable], tested: Sequence[Hashable], allowed: float
) -> list[str]:
    """What a table says about test items that equal a training item; nothing if there is none.

    Whole sets are compared, whatever part of them a run uses: a few records of one and the same file may
    differ by chance.

    Args:
        name: of the task or family.
        trained, tested: what a model is asked, without the answer.
        allowed: the largest share of test items, between 0 and 1.

    Raises:
        DataError: it is a larger share.
    """
    known = set(trained)
    count = sum(item in known for item in tested)
    if count == 0:
        return []
    found = f"{name}: {count} of the {len(tested)} test items are in the training set"
    if count > allowed * len(tested):
        raise DataError(
            f"{found}, more than {100 * allowed:g} %; use other files, or raise allowed_overlap in the "
            "experiment's or the profile's benchmark"
        )
    return [found]
