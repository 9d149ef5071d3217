# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""What a fine-tuning leaves: a prompt and an adapter, in a model and as stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from qkit.artifact.folder import RunFolder
from qkit.artifact.tensors import from_tensors, to_tensors
from qkit.clip.model import ClipModel
from qkit.clip.prompt import LearnedPrompt
from qkit.errors import ArtifactError, TrainingError
from qkit.p4q.adapter import QuantAdapter
from qkit.p4q.config import P4QConfig
from qkit.report.tuning import TABLE

FILE = "p4q.safetensors"
MEMBER = "p4q_adapter"
CONTEXT, ADAPTER = "prompt.context", "adapter."


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A learned prompt and a frozen adapter.

    Attributes:
        config: how they were learned.
        prompt: None where none was.
        adapter: None where none was.
    """

    config: P4QConfig
    prompt: LearnedPrompt | None
    adapter: QuantAdapter | None

    @property
    def parameters(self) -> int:
        """Numbers that were added to the model."""
        context = 0 if self.prompt is None else self.prompt.context.numel()
        adapter = () if self.adapter is None else self.adapter.parameters()
        return context + sum(p.numel() for p in adapter)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: the context in float, the adapter as integers, scales and biases."""
        found: dict[str, Tensor] = {}
        if self.prompt is not None:
            found[CONTEXT] = self.prompt.context.cpu()
        if self.adapter is not None:
            stored = to_tensors(self.adapter, self.adapter.layers)
            found |= {f"{ADAPTER}{name}": tensor for name, tensor in stored.items()}
        return found

    def applied_to(self, clip: ClipModel) -> ClipModel:
        """Put the adapter behind the image tower of ``clip``, in place, and add the prompt.

        The adapter steps aside where the model's points are OFF.
        """
        self._put_in(clip.model)
        return replace(clip, prompt=self.prompt)

    @contextmanager
    def lent_to(self, clip: ClipModel) -> Iterator[ClipModel]:
        """The same for a while."""
        handle = self._put_in(clip.model)
        try:
            yield replace(clip, prompt=self.prompt)
        finally:
            if handle is not None:
                handle.remove()
                delattr(clip.model, MEMBER)

    def _put_in(self, model: Any) -> RemovableHandle | None:
        if self.adapter is None:
            return None
        model.add_module(MEMBER, self.adapter)
        handle: RemovableHandle = model.visual.register_forward_hook(self.adapter.after)
        return handle


def read_learned(table: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Learned:
    """Inverse of ``Learned.tensors``.

    Args:
        table: of the manifest.
        tensors: the stored file's.

    Raises:
        ArtifactError: they do not fit together.
    """
    try:
        config = P4QConfig.from_dict(table["options"])
        prompt = None
        if config.prompt is not None:
            where = (config.prompt.position, bool(table["captions"]), tuple(table["classes"]))
            prompt = LearnedPrompt(tensors[CONTEXT], *where)
        return Learned(config, prompt, _read_adapter(config, tensors))
    except (KeyError, TypeError, TrainingError) as error:
        message = f"{FILE} does not fit its manifest ({error}). Fine-tune again."
        raise ArtifactError(message) from error


def _read_adapter(config: P4QConfig, tensors: Mapping[str, Tensor]) -> QuantAdapter | None:
    if config.adapter is None:
        return None
    own = {k.removeprefix(ADAPTER): t for k, t in tensors.items() if k.startswith(ADAPTER)}
    width, hidden = len(own["up.bias"]), len(own["down.bias"])
    adapter = QuantAdapter(width, hidden, config.adapter.ratio, config.adapter.bits)
    from_tensors(adapter, adapter.layers, own)
    return adapter.requires_grad_(False).eval()


def stored_learned(folder: RunFolder) -> Learned | None:
    """What a run folder holds beside its model; None where it was not fine-tuned.

    Raises:
        ArtifactError: the folder is damaged.
    """
    table = folder.manifest.get(TABLE)
    return None if table is None else read_learned(table, folder.tensors(FILE))
