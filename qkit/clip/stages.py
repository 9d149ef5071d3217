# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Cut the residual blocks that open_clip builds into their attention and MLP halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from qkit.graph.blocks import Block
from qkit.graph.layers import Layer
from qkit.graph.stages import Stage


class Half(NamedTuple):
    """One residual branch of a block: ``function(stream, ...)`` adds it to the stream."""

    name: str
    entry: nn.Module
    function: Callable[..., Tensor]


def list_stages(
    blocks: Sequence[Block], layers: Sequence[Layer], *, halves: bool
) -> tuple[Stage, ...]:
    """The blocks of both towers as stages, in halves where the block's class is known.

    Args:
        blocks: of both towers, in running order.
        layers: of both towers.
        halves: cut blocks into attention and MLP.
    """
    return tuple(stage for block in blocks for stage in _stages(block, layers, halves))


def _stages(block: Block, layers: Sequence[Layer], halves: bool) -> list[Stage]:
    inside = tuple(layer for layer in layers if block.holds(layer.name))
    cut = HALVES.get(type(block.module)) if halves else None
    if cut is None or hasattr(block.module, "ln_1_kv"):  # cross-attention has a second input
        return [_stage(block, Half("", block.module, block.module), inside)]
    first, second = cut(block.module)
    mlp = tuple(layer for layer in inside if layer.name.startswith(f"{block.name}.mlp."))
    rest = tuple(layer for layer in inside if layer not in mlp)
    return [_stage(block, first, rest), _stage(block, second, mlp)]


def _stage(block: Block, half: Half, layers: tuple[Layer, ...]) -> Stage:
    name = f"{block.name}.{half.name}".rstrip(".")
    where = (block.tower, block.index, block.module)
    return Stage(name, *where, half.entry, half.function, layers)


def _open_clip(block: Any) -> tuple[Half, Half]:
    def attention(
        x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        return x + block.ls_1(block.attention(q_x=block.ln_1(x), attn_mask=attn_mask))  # type: ignore[no-any-return]

    def mlp(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[no-any-return]

    return Half("attn", block, attention), Half("mlp", block.ln_2, mlp)


def _custom(block: Any) -> tuple[Half, Half]:
    def attention(x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        branch = block.ln_attn(block.attn(block.ln_1(x), attn_mask=attn_mask))
        return x + block.ls_1(branch)  # type: ignore[no-any-return]

    def mlp(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[no-any-return]

    return Half("attn", block, attention), Half("mlp", block.ln_2, mlp)


def _timm(block: Any) -> tuple[Half, Half]:
    def attention(x: Tensor, **extra: Any) -> Tensor:
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **extra)))  # type: ignore[no-any-return]

    def mlp(x: Tensor, **_: Any) -> Tensor:
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[no-any-return]

    return Half("attn", block, attention), Half("mlp", block.norm2, mlp)


HALVES: dict[type[nn.Module], Callable[[Any], tuple[Half, Half]]] = {
    ResidualAttentionBlock: _open_clip,
    CustomResidualAttentionBlock: _custom,
    TimmBlock: _timm,
}
