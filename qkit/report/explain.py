# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""From a layer's figures to words: cause, evidence, remedy. Every number said is one measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from qkit.report.layer import BlockReport, LayerReport
from qkit.report.names import short_name

LITTLE = 30.0  # dB of local SQNR above which a layer needs no help
PASSED_ON = 0.25  # share of the error below which a layer only passes it on, unless it is
BROKEN = 10.0  # dB, worse than this by itself
WORTH = 1.0  # dB that a change must gain to be advised
MUCH = 3.0
ONE_CHANNEL = 0.5  # share of the range above which one channel is to blame
SAME_BITS = {
    "input per token": "per-token activations",
    "channels smoothed": "smoothing, a [transform]",
    "input full range": "the full range",
    "input least error": "a least-error range",
    "weight per channel": "one weight scale a channel",
    "weight least error": "least-error weight ranges",
    "query per token": "query per token",
    "key per token": "key per token",
    "value per token": "value per token",
    "probs per token": "probs per token",
    "probs log-sqrt2": "a log-sqrt2 grid for probs",
    "probs uniform": "a uniform grid for probs",
    "input uniform": "a uniform grid for its input",
}


class Words(NamedTuple):
    """What is said of one layer."""

    cause: str
    evidence: str
    remedy: str


def explain(
    layers: Sequence[LayerReport], blocks: Sequence[BlockReport]
) -> tuple[LayerReport, ...]:
    """Fill in cause, evidence and remedy of every layer.

    Args:
        layers: in the order in which they run, all figures in place.
        blocks: the blocks they lie in.
    """
    said = []
    for i, layer in enumerate(layers):
        earlier = [other for other in layers[:i] if other.tower == layer.tower]
        words = _words(layer, earlier, [b for b in blocks if b.tower == layer.tower])
        said.append(replace(layer, **words._asdict()))
    return tuple(said)


def _words(
    layer: LayerReport, earlier: Sequence[LayerReport], blocks: Sequence[BlockReport]
) -> Words:
    if not layer.tensors:
        return Words("left in float", _arrives(layer), "none needed here")
    if min(layer.local_sqnr_db, layer.cumulative_sqnr_db) >= LITTLE:
        return Words("loses little", _made(layer), "none needed")
    if layer.made < PASSED_ON and layer.local_sqnr_db >= BROKEN and earlier:
        return Words("passes on what came in", _made(layer), _upstream(layer, earlier, blocks))
    if layer.local_sqnr_db >= LITTLE:
        return Words("loses little", _made(layer), "none needed")
    if layer.kind == "attention":
        return _attention(layer)
    of_input, of_weight = (layer.trials.get(f"{part} float", 0.0) for part in ("input", "weight"))
    has_input = any(tensor.role != "weight" for tensor in layer.tensors)
    if layer.weight_bits is None or (has_input and of_input >= of_weight):
        return _input(layer)
    return _weight(layer)


def _input(layer: LayerReport) -> Words:
    gains, channel = layer.trials, layer.channel
    seen = layer.tensors[-1]
    spread = f"its whole range is {layer.token_spread or 0:.1f}x that of the median token"
    remedy = _remedy(layer, "input", "channels")
    if channel is not None and channel.share >= ONE_CHANNEL and seen.granularity == "tensor":
        share = f"channel {channel.index} carries {channel.share:.0%} of the input's range"
        return Words("one channel stretches the input's range", share, remedy)
    if gains.get("input per token", 0.0) >= MUCH:
        return Words("a few tokens stretch the input's range", spread, remedy)
    if gains.get("input full range", 0.0) >= WORTH:
        cut = f"{layer.clipped or 0:.2%} of the values lie beyond {seen.span or 0:.0%} of the range"
        return Words("the range cuts off what matters", cut, remedy)
    if gains.get("input least error", 0.0) >= WORTH:
        narrower = gains["input least error"]
        rare = (
            f"clipping its rare ends would gain {_gain(narrower)} dB: the rest lie close together"
        )
        return Words("rare values stretch the input's range", rare, remedy)
    return Words(f"{seen.bits} bits are few for its input", _parts(layer), remedy)


def _weight(layer: LayerReport) -> Words:
    remedy, bits = _remedy(layer, "weight"), f"{layer.weight_bits} bits"
    if layer.trials.get("weight per channel", 0.0) >= MUCH:
        return Words("one scale for all of the weight's channels", _parts(layer), remedy)
    if layer.trials.get("weight least error", 0.0) >= WORTH:
        return Words("outliers stretch the weight's ranges", _parts(layer), remedy)
    return Words(f"{bits} are few for its weight", _parts(layer), remedy)


def _attention(layer: LayerReport) -> Words:
    gains = {
        name.removesuffix(" float"): gain
        for name, gain in layer.trials.items()
        if name.endswith(" float")
    }
    if not gains:
        return Words("its operands are rounded", _made(layer), "none tried gains anything")
    worst = max(gains, key=lambda role: gains[role])
    bits = layer.operands[worst]
    order = sorted(gains.items(), key=lambda item: -item[1])
    evidence = "in float they would gain: " + ", ".join(f"{r} {_gain(g)}" for r, g in order)
    return Words(f"{bits} bits are few for its {worst}", f"{evidence} dB", _remedy(layer, worst))


def _remedy(layer: LayerReport, *operands: str) -> str:
    """The best change at the same bits, and what more bits would do."""
    mine = {n: gain for n, gain in layer.trials.items() if n.split(" ")[0] in operands}
    same = {SAME_BITS[name]: gain for name, gain in mine.items() if name in SAME_BITS}
    wider = {_wider(name): gain for name, gain in mine.items() if " at " in name}
    best = [max(group, key=group.__getitem__) for group in (same, wider) if group]
    advised = [(name, {**same, **wider}[name]) for name in best]
    worth = [f"{name}: {_gain(gain)} dB" for name, gain in advised if gain >= WORTH]
    if worth:
        return "; ".join(worth)
    floats = [gain for name, gain in mine.items() if name.endswith(" float")]
    left = f"; left in float: {_gain(max(floats))} dB" if floats and max(floats) >= WORTH else ""
    return f"no other grid of its bits gains {WORTH:.0f} dB{left}"


def _wider(name: str) -> str:
    operand, _, bits = name.partition(" at ")
    return f"{operand} at {bits}"


def _upstream(
    layer: LayerReport, earlier: Sequence[LayerReport], blocks: Sequence[BlockReport]
) -> str:
    """Where most of it was made: the block that makes most so far, and its worst layer."""
    reached = [b for b in blocks if layer.block is None or b.index <= layer.block]
    candidates = earlier
    for block in sorted(reached, key=lambda b: b.local_sqnr_db)[:1]:
        candidates = [other for other in earlier if other.block == block.index] or earlier
    worst = min(candidates, key=lambda other: other.local_sqnr_db)
    where = "" if worst.block is None else f"block {worst.block} "
    return f"mend {where}{short_name(worst.name)} first ({_db(worst.local_sqnr_db)} by itself)"


def _parts(layer: LayerReport) -> str:
    """What either operand in float would gain."""
    gains: Mapping[str, float] = {
        part: layer.trials[f"{part} float"]
        for part in ("input", "weight")
        if f"{part} float" in layer.trials
    }
    if not gains:
        return _made(layer)
    return "in float it would gain: " + ", ".join(f"{p} {_gain(g)} dB" for p, g in gains.items())


def _made(layer: LayerReport) -> str:
    local, inherited = _db(layer.local_sqnr_db), _db(layer.inherited_sqnr_db)
    if math.isinf(layer.inherited_sqnr_db):
        return f"alone {local}, nothing came in: it makes all of the error"
    share = f"{layer.made:.1%}" if layer.made < 0.01 else f"{layer.made:.0%}"
    return f"alone {local}, what came in {inherited}: it makes {share} of the error"


def _arrives(layer: LayerReport) -> str:
    return f"{_db(layer.cumulative_sqnr_db)} arrives"


def _gain(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # never "-0.0"


def _db(value: float) -> str:
    return "exact" if value == float("inf") else f"{value:.1f} dB"
