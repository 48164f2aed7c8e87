"""All five metrics of a set of sentences, each with one value per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repro.benchmarks.e2e.metrics.bleu import bleu
from repro.benchmarks.e2e.metrics.java import JavaError, Meteor, ptb_tokens
from repro.benchmarks.e2e.metrics.nist import nist
from repro.training.data import DataError
from repro.training.data_files import shown

# METEOR is a Java program, and so is Stanford's tokeniser, which the three metrics use.
_NEED_JAVA = {"meteor": "METEOR 1.5", "rouge_l": "ROUGE-L (PTB tokens)", "cider": "CIDEr (PTB tokens)"}


@dataclass(frozen=True)
class Metric:
    """One metric of a set of sentences.

    Attributes:
        name: with the tokeniser or version that it depends on.
        value: BLEU, METEOR and ROUGE-L in percent; None if it could not be computed.
        per_item: one number per sentence, whose mean is the value: the sentence's own score, or the jackknife
            pseudo-value of a corpus-level metric.
        missing: why there is no value, and what to do.
    """

    name: str
    value: float | None
    per_item: tuple[float, ...] = ()
    missing: str = ""


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Metric]:
    """The metrics of sentences against their references, any number each.

    Without Java only BLEU and NIST have values: no tokeniser in Python gives Stanford's tokens in all cases.

    Raises:
        DataError: there are no sentences, or one without references, or a value that is no text.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise DataError(
            f"{len(hypotheses)} sentences, but references of {len(references)}; each sentence needs some"
        )
    for texts in (hypotheses, *references):
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"sentences and references are lists of texts (got {shown(texts)}); none is empty"
            )
    # A line is a sentence, for every tool.
    said = [" ".join(text.split()) for text in hypotheses]
    wanted = [[" ".join(text.split()) for text in texts] for texts in references]
    metrics = {}
    value, shares = bleu(said, wanted)
    metrics["bleu"] = Metric("BLEU (13a, lower case)", 100 * value, tuple(100 * shares))
    value, shares = nist(said, wanted)
    metrics["nist"] = Metric("NIST (mteval-13a)", value, tuple(shares))
    try:
        return metrics | _with_java(said, wanted)
    except JavaError as error:
        return metrics | {
            column: Metric(name, None, missing=f"{name}: {error}") for column, name in _NEED_JAVA.items()
        }


def _with_java(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> dict[str, Metric]:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokens = iter(ptb_tokens([*said, *(text for texts in wanted for text in texts)]))
    hypotheses = {item: [next(tokens)] for item in range(len(said))}
    references = {item: [next(tokens) for _ in texts] for item, texts in enumerate(wanted)}
    with Meteor() as scorer:
        whole, segments = scorer.score([text for (text,) in hypotheses.values()], list(references.values()))
    # METEOR of a set is close to the mean of its sentences' scores; these are shifted so that it is the mean.
    shift = whole - sum(segments) / len(segments)
    rouge, rouges = Rouge().compute_score(references, hypotheses)
    cider, ciders = Cider().compute_score(references, hypotheses)
    return {
        "meteor": Metric(
            _NEED_JAVA["meteor"], 100 * whole, tuple(100 * (segment + shift) for segment in segments)
        ),
        "rouge_l": Metric(
            _NEED_JAVA["rouge_l"], 100 * float(rouge), tuple(100 * float(item) for item in rouges)
        ),
        "cider": Metric(_NEED_JAVA["cider"], float(cider), tuple(float(item) for item in ciders)),
    }
