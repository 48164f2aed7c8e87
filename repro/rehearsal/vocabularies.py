"""Tokenizers of the kinds that the paper's models have, trained on a few texts, in the hub's files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Rows of the tiny models' embeddings. The tokenizers have fewer entries, as DeBERTa's has.
VOCABULARY = 512

_ENTRIES = 480


def write_tokenizer(folder: Path, architecture: str, padding: str, texts: Sequence[str]) -> None:
    """Write the tokenizer files of a model.

    Args:
        architecture: the `model_type` of its configuration.
        padding: the special token that the model pads with. Where LLaMA 1 and 2 do not have it, the model is
            a LLaMA 3, whose tokenizer is of another kind.
        texts: to train on.

    Raises:
        ValueError: no tokenizer is known for the architecture.
    """
    kind = "llama3" if architecture == "llama" and padding not in ("<unk>", "<s>", "</s>") else architecture
    if kind not in _KINDS:
        raise ValueError(f"no tokenizer is known for the architecture {kind!r}; known: {', '.join(_KINDS)}")
    _KINDS[kind](folder, texts)


def _llama(folder: Path, texts: Sequence[str]) -> None:
    """sentencepiece BPE with a token for each byte; a start token, no padding token."""
    model = _sentencepiece(texts, model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1, eos_id=2)
    (folder / "tokenizer.model").write_bytes(model)
    _settings(
        folder,
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        add_bos_token=True,
        add_eos_token=False,
    )


def _deberta(folder: Path, texts: Sequence[str]) -> None:
    """sentencepiece unigrams, with the special tokens of BERT."""
    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    model = _sentencepiece(texts, model_type="unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **pieces)
    (folder / "spm.model").write_bytes(model)
    _settings(folder, tokenizer_class="DebertaV2Tokenizer", do_lower_case=False, vocab_type="spm")


def _sentencepiece(texts: Sequence[str], **settings: Any) -> bytes:
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=_ENTRIES,
        hard_vocab_limit=False,  # the texts may hold fewer pieces
        character_coverage=1.0,
        minloglevel=2,
        **settings,
    )
    return written.getvalue()


def _llama3(folder: Path, texts: Sequence[str]) -> None:
    """BPE of bytes in one file, of no class of its own; a start token, no padding token, reserved ones."""
    from tokenizers import processors

    start, end, reserved = "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"
    tokenizer = _byte_bpe(texts, [start, end, reserved])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, tokenizer_class="PreTrainedTokenizerFast", bos_token=start, eos_token=end)


def _gpt2(folder: Path, texts: Sequence[str]) -> None:
    """BPE of bytes with a single special token."""
    end = "<|endoftext|>"
    tokenizer = _byte_bpe(texts, [end])
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, tokenizer_class="GPT2Tokenizer", bos_token=end, eos_token=end, unk_token=end)


def _roberta(folder: Path, texts: Sequence[str]) -> None:
    """BPE of bytes, with the special tokens and numbers of fairseq."""
    from tokenizers import processors

    tokenizer = _byte_bpe(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.model.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, tokenizer_class="RobertaTokenizer")


def _bert(folder: Path, texts: Sequence[str]) -> None:
    """WordPiece."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=_ENTRIES, show_progress=False)
    tokenizer.save_model(str(folder))  # vocab.txt
    _settings(folder, tokenizer_class="BertTokenizer", do_lower_case=True)


def _byte_bpe(texts: Sequence[str], special: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_ENTRIES,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _settings(folder: Path, **settings: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


_KINDS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "llama": _llama,
    "llama3": _llama3,
    "gpt2": _gpt2,
    "roberta": _roberta,
    "deberta-v2": _deberta,
    "bert": _bert,
}
