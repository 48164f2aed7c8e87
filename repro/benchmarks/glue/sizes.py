"""Mean lengths of the tasks' training examples, so that a plan does not need the data."""

from __future__ import annotations

# By size of the vocabulary, the mean tokens of a training example with its special tokens: of BERT's uncased
# vocabulary on 2,000 examples, of RoBERTa's, which is GPT-2's, on up to 20,000. QNLI, QQP and MNLI are public
# subsets. DeBERTa-v2's vocabulary (128,100 entries) was not at hand.
MEAN_TOKENS = {
    30_522: {
        "mnli": 40.3,
        "sst2": 13.4,
        "mrpc": 53.3,
        "cola": 11.4,
        "qnli": 49.6,
        "qqp": 31.1,
        "rte": 69.7,
        "stsb": 26.8,
    },
    50_265: {
        "mnli": 40.9,
        "sst2": 14.4,
        "mrpc": 53.3,
        "cola": 11.4,
        "qnli": 50.8,
        "qqp": 31.2,
        "rte": 71.2,
        "stsb": 29.1,
    },
}
