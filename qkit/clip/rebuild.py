# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""An architecture from its stored configuration; its tokenizer once there are texts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor

from qkit.clip.model import LOAD_ERRORS, ClipModel, assemble, first_line, quiet_open_clip
from qkit.errors import ModelError


def rebuild(spec: str, config: Mapping[str, Any]) -> ClipModel:
    """Build the architecture that ``config`` describes again, with random weights.

    Raises:
        ModelError: open_clip cannot build it.
    """
    with _stored(spec, config, "architecture") as name:
        model = open_clip.create_model(name, load_weights=False)
    return assemble(spec, model.eval(), LateTokenizer(spec, config), dict(config))


class LateTokenizer:
    """The tokenizer that a configuration names, built for the first text.

    It takes time, or packages, that whoever encodes images alone does without.
    What is asked of it beside texts (``vocab_size``, ``decode``), open_clip's own answers.
    """

    def __init__(self, spec: str, config: Mapping[str, Any]) -> None:
        self.spec = spec
        self.config = config

    def __call__(self, texts: str | list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Token numbers ``(N, context)``.

        Raises:
            ModelError: open_clip cannot build the tokenizer.
        """
        tokens: Tensor = self._built(texts, *args, **kwargs)
        return tokens

    def __getattr__(self, name: str) -> Any:
        """Ask the tokenizer itself."""
        if name.startswith("__"):  # asked for while it is copied, before there is a configuration
            raise AttributeError(name)
        return getattr(self._built, name)

    @cached_property
    def _built(self) -> Callable[..., Any]:
        with _stored(self.spec, self.config, "tokenizer") as name:
            made: Callable[..., Any] = open_clip.get_tokenizer(name)
        return made


@contextmanager
def _stored(spec: str, config: Mapping[str, Any], what: str) -> Iterator[str]:
    """A name under which open_clip finds the configuration."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            with quiet_open_clip():
                yield f"local-dir:{folder}"
        except LOAD_ERRORS as error:
            cause = first_line(error)
            message = f"the stored {what} of {spec!r} cannot be built: {cause}. Check versions."
            raise ModelError(message) from error
