"""Shapes and parameter counts of an architecture, from its configuration alone.

Plans print a table's parameter column, and runs check the model that they built, without building a 70B
model or importing torch. So each supported architecture is described here once, by the linear maps of one
block and the number of parameters outside of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class LinearShape(NamedTuple):
    """One linear map. Its W0 is (out_features, in_features) as in the paper, even if stored transposed."""

    name: str
    out_features: int
    in_features: int

    @property
    def parameters(self) -> int:
        """Number of weights, bias excluded."""
        return self.out_features * self.in_features


class Surroundings(NamedTuple):
    """What a model computes besides the linear maps of its blocks.

    Attributes:
        blocks: number of blocks.
        attention_width: width of a block's queries, all heads together.
        positions: number of relative positions that each query and each key is compared with.
        scoring_heads: attention heads of a block that keep their scores, as in DeBERTa; 0 where attention is
            one fused operation.
        convolution: a convolution, as a linear map applied once to every token.
        head: a language model's head, applied to predicted tokens.
    """

    blocks: int
    attention_width: int
    positions: int
    scoring_heads: int
    convolution: LinearShape | None
    head: LinearShape | None


class _Layout(NamedTuple):
    """An architecture: equal blocks of linear maps, and the number of parameters outside of these maps."""

    prefix: str  # module path of the list of blocks, in the model with its task head
    blocks: int
    linears: tuple[LinearShape, ...]  # of one block, named relative to it
    bias: bool  # whether these linear maps have one
    norms: int  # parameters of one block's normalisation layers
    outside: int  # embeddings, final normalisation, language model head
    positions: int = 0
    scoring_heads: int = 0
    convolution: LinearShape | None = None
    head: LinearShape | None = None

    def parameters(self) -> int:
        weights = sum(linear.parameters + self.bias * linear.out_features for linear in self.linears)
        return self.outside + self.blocks * (weights + self.norms)


def linear_shapes(architecture: Mapping[str, Any], targets: Sequence[str] | None = None) -> list[LinearShape]:
    """The linear maps of all blocks that `targets` selects, one by one, named by their full module path.

    As in peft, a target is a module's path or the end of it. Without targets: every linear map of a block.

    Raises:
        ValueError: the architecture is not supported, incomplete or impossible, or a target selects nothing.
    """
    layout, selected = _layout(architecture), block_shapes(architecture, targets)
    return [
        LinearShape(f"{layout.prefix}.{block}.{linear.name}", linear.out_features, linear.in_features)
        for block in range(layout.blocks)
        for linear in selected
    ]


def block_shapes(architecture: Mapping[str, Any], targets: Sequence[str] | None = None) -> list[LinearShape]:
    """The linear maps of one block that `targets` selects, named relative to the block.

    Raises:
        ValueError: as in `linear_shapes`.
    """
    layout = _layout(architecture)
    names = [linear.name for linear in layout.linears]
    for target in targets or ():
        if not any(_selects(target, name) for name in names):
            raise ValueError(
                f"target {target!r} is no linear module of a {architecture['model_type']} block; "
                f"known: {', '.join(names)}"
            )
    return [
        linear
        for linear in layout.linears
        if targets is None or any(_selects(target, linear.name) for target in targets)
    ]


def base_parameters(architecture: Mapping[str, Any]) -> int:
    """Number of parameters of the pretrained model, with a language model's head, without a classifier's.

    Raises:
        ValueError: the architecture is not supported, incomplete or impossible.
    """
    return _layout(architecture).parameters()


def surroundings(architecture: Mapping[str, Any]) -> Surroundings:
    """What a model computes besides the linear maps of its blocks.

    Raises:
        ValueError: the architecture is not supported, incomplete or impossible.
    """
    layout = _layout(architecture)
    # The first map of a block is the query's in every architecture here.
    width = layout.linears[0].out_features
    return Surroundings(
        layout.blocks, width, layout.positions, layout.scoring_heads, layout.convolution, layout.head
    )


def _selects(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _layout(architecture: Mapping[str, Any]) -> _Layout:
    model_type = architecture.get("model_type")
    if not isinstance(model_type, str) or model_type not in _LAYOUTS:
        raise ValueError(f"unknown model_type {model_type!r}; known: {', '.join(sorted(_LAYOUTS))}")
    try:
        return _LAYOUTS[model_type](architecture)
    except KeyError as error:
        raise ValueError(f"the architecture of a {model_type} model needs the key {error}") from error


def _llama(a: Mapping[str, Any]) -> _Layout:
    hidden, inner = a["hidden_size"], a["intermediate_size"]
    head = hidden // a["num_attention_heads"]
    keys = a["num_key_value_heads"] * head
    embeddings = 1 if a["tie_word_embeddings"] else 2  # input, and the language model head
    return _Layout(
        prefix="model.layers",
        blocks=a["num_hidden_layers"],
        linears=(
            LinearShape("self_attn.q_proj", hidden, hidden),
            LinearShape("self_attn.k_proj", keys, hidden),
            LinearShape("self_attn.v_proj", keys, hidden),
            LinearShape("self_attn.o_proj", hidden, hidden),
            LinearShape("mlp.gate_proj", inner, hidden),
            LinearShape("mlp.up_proj", inner, hidden),
            LinearShape("mlp.down_proj", hidden, inner),
        ),
        bias=False,
        norms=2 * hidden,
        outside=embeddings * a["vocab_size"] * hidden + hidden,
        head=LinearShape("lm_head", a["vocab_size"], hidden),
    )


def _gpt2(a: Mapping[str, Any]) -> _Layout:
    hidden = a["n_embd"]
    return _Layout(
        prefix="transformer.h",
        blocks=a["n_layer"],
        linears=(
            # One matrix in the checkpoint, see `repro.models.gpt2`.
            LinearShape("attn.c_attn.q_proj", hidden, hidden),
            LinearShape("attn.c_attn.k_proj", hidden, hidden),
            LinearShape("attn.c_attn.v_proj", hidden, hidden),
            LinearShape("attn.c_proj", hidden, hidden),
            LinearShape("mlp.c_fc", 4 * hidden, hidden),
            LinearShape("mlp.c_proj", hidden, 4 * hidden),
        ),
        bias=True,
        norms=4 * hidden,
        outside=(a["vocab_size"] + a["n_positions"]) * hidden + 2 * hidden,  # the head is the embedding
        head=LinearShape("lm_head", a["vocab_size"], hidden),
    )


def _encoder(a: Mapping[str, Any], prefix: str, attention: tuple[str, str, str], outside: int) -> _Layout:
    """The block of BERT and its descendants; only the names and the parameters outside differ."""
    hidden, inner = a["hidden_size"], a["intermediate_size"]
    return _Layout(
        prefix=f"{prefix}.encoder.layer",
        blocks=a["num_hidden_layers"],
        linears=(
            *(LinearShape(f"attention.self.{name}", hidden, hidden) for name in attention),
            LinearShape("attention.output.dense", hidden, hidden),
            LinearShape("intermediate.dense", inner, hidden),
            LinearShape("output.dense", hidden, inner),
        ),
        bias=True,
        norms=4 * hidden,
        outside=outside,
    )


def _embeddings(a: Mapping[str, Any]) -> int:
    """Words, positions and segments, and the normalisation after them."""
    rows = a["vocab_size"] + a["max_position_embeddings"] + a["type_vocab_size"]
    return rows * a["hidden_size"] + 2 * a["hidden_size"]


def _bert(a: Mapping[str, Any]) -> _Layout:
    hidden = a["hidden_size"]
    pooler = hidden * hidden + hidden  # pretrained, so not a task head
    return _encoder(a, "bert", ("query", "key", "value"), _embeddings(a) + pooler)


def _roberta(a: Mapping[str, Any]) -> _Layout:
    return _encoder(a, "roberta", ("query", "key", "value"), _embeddings(a))


def _deberta_v2(a: Mapping[str, Any]) -> _Layout:
    """DeBERTa-v2 as in its xxlarge model: relative positions only, keys shared by content and position."""
    hidden = a["hidden_size"]
    words = a["vocab_size"] * hidden + 2 * hidden
    positions = 2 * a["position_buckets"] * hidden + 2 * hidden
    kernel = LinearShape("deberta.encoder.conv.conv", hidden, a["conv_kernel_size"] * hidden)
    convolution = kernel.parameters + hidden + 2 * hidden
    attention = ("query_proj", "key_proj", "value_proj")
    layout = _encoder(a, "deberta", attention, words + positions + convolution)
    return layout._replace(
        positions=2 * a["position_buckets"], scoring_heads=a["num_attention_heads"], convolution=kernel
    )


_LAYOUTS: dict[Any, Callable[[Mapping[str, Any]], _Layout]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "bert": _bert,
    "roberta": _roberta,
    "deberta-v2": _deberta_v2,
}
