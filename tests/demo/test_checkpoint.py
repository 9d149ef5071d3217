# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The stored checkpoint: halved, shortened, and an ordinary open_clip folder again."""

import pytest
import torch
from safetensors.torch import load_file

from qkit.clip.loading import load_model
from qkit.clip.rebuild import rebuild
from qkit.demo import checkpoint
from qkit.demo.checkpoint import (
    CONFIG,
    LOADABLE,
    ROWS,
    TABLE,
    WEIGHTS,
    expand_checkpoint,
    read_config,
    write_checkpoint,
)
from qkit.demo.training.vocabulary import used_tokens
from qkit.errors import ModelError

USED = [0, 7, 320, 49406, 49407]


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(3)
    return rebuild("demo", read_config())


@pytest.fixture
def stored(drawn, tmp_path):
    write_checkpoint(tmp_path / WEIGHTS, drawn.model.state_dict(), USED)
    return tmp_path / WEIGHTS


def test_tensors_are_stored_in_half_precision_with_only_the_used_rows(stored, drawn):
    tensors = load_file(stored)
    assert tensors.pop(ROWS).tolist() == USED
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert tensors[TABLE].shape == (len(USED), 128)
    assert tensors.keys() == drawn.model.state_dict().keys()


def test_open_clip_loads_what_was_stored(stored, drawn, tmp_path):
    folder = tmp_path / "expanded"
    folder.mkdir()
    expand_checkpoint(folder, stored)
    loaded = load_model(f"local-dir:{folder}").model.state_dict()
    for name, tensor in drawn.model.state_dict().items():
        if name != TABLE:
            assert torch.equal(loaded[name], tensor.half().float()), name
    table = drawn.model.state_dict()[TABLE]
    assert torch.equal(loaded[TABLE][USED], table[USED].half().float())
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[USED] = False
    assert not loaded[TABLE][unused].any()


def test_texts_of_used_tokens_are_encoded_as_before(drawn, tmp_path):
    write_checkpoint(tmp_path / WEIGHTS, drawn.model.state_dict(), used_tokens(drawn.tokenizer))
    expand_checkpoint(tmp_path, tmp_path / WEIGHTS)
    loaded = load_model(f"local-dir:{tmp_path}")
    tokens = drawn.tokenizer(["a photo of a large red star.", "a blue ring above a green arrow"])
    with torch.no_grad():
        before, after = drawn.model.encode_text(tokens), loaded.model.encode_text(tokens)
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.9999
    assert (tmp_path / LOADABLE).stat().st_size > 4 * 49408 * 128


def test_a_damaged_installation_is_told_in_one_line(monkeypatch, tmp_path):
    (tmp_path / CONFIG).write_text("{}")
    monkeypatch.setattr(checkpoint, "_shipped", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"demo model cannot be read.*Install qkit-clip again"):
        load_model("demo")
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"demo model cannot be read.*Install qkit-clip again"):
        load_model("demo")
