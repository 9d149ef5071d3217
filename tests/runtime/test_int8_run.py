# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""``qkit.load(RUN, runtime="int8")`` against the simulated model of the same folder."""

import copy
import gc
import warnings

import pytest
import torch
import torch.nn.functional as F

import qkit
from qkit.clip.unpadded import keep_padding
from qkit.errors import ArtifactError, ModelError, QkitWarning
from qkit.nn.layer import QuantLayer
from qkit.recipe import Recipe, SchemeRule
from qkit.runtime import kernels
from qkit.runtime.kernels import missing_kernel
from qkit.runtime.modules import IntAttention, IntEmbedding, IntLinear, IntMlp, IntPatches
from qkit.spec import Granularity, GridKind, QuantSpec, Scheme
from tests.runtime.conftest import FLOAT_CORE, WAYS, WEIGHT, int8, same_bits

COSINE = 0.9999


@pytest.fixture(autouse=True)
def _kernels():
    if (missing := missing_kernel()) is not None:
        pytest.skip(missing)


def features(model, pixels, tokens):
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(tokens)


def least_cosine(first, second):
    return min(float(F.cosine_similarity(a, b).min()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", WAYS)
def test_features_are_those_of_the_simulated_model(both, pixels, tokens, name):
    run = both(name)
    found = features(run.int8.model, pixels, tokens)
    assert least_cosine(found, features(run.simulated.model, pixels, tokens)) >= COSINE


@pytest.mark.parametrize("name", WAYS)
def test_the_kernels_give_what_exact_sums_of_integers_give_bit_for_bit(both, pixels, tokens, name):
    if not same_bits():
        pytest.skip("this machine's kernel multiplies by its scales in another order")
    found = features(both(name).int8.model, pixels, tokens)
    expected = features(int8(both(name).path, "exact").model, pixels, tokens)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", WAYS)
def test_the_simulation_gives_the_same_bits(both, pixels, tokens, name):
    run = both(name)
    exact = int8(run.path, "exact").model
    keep_padding(exact)  # integers cut texts where they end, which moves attention's float sums
    expected = features(run.simulated.model, pixels, tokens)
    assert all(map(torch.equal, features(exact, pixels, tokens), expected))


@pytest.mark.parametrize("name", WAYS)
def test_every_layer_runs_in_integers_or_is_named(both, name):
    run = both(name).int8
    cores = {layer.name for layer in run.layers if layer.kind == "attention"}
    assert {fallback.layer for fallback in run.runtime.fallbacks} == cores
    (reason,) = {fallback.reason for fallback in run.runtime.fallbacks}
    in_float = "attention in float" in name
    assert reason.startswith("the recipe leaves it in float" if in_float else "its two products")
    kinds = [type(module) for module in run.model.modules()]
    blocks = 4
    assert [kinds.count(kind) for kind in (IntAttention, IntMlp)] == [blocks, blocks]
    assert kinds.count(IntLinear) == 3 * blocks + 2  # out, and two of each MLP; both projections
    assert (kinds.count(IntPatches), kinds.count(IntEmbedding)) == (1, 1)
    assert not [module for module in run.model.modules() if isinstance(module, QuantLayer)]


def test_the_number_of_layers_in_float_is_warned_of(both):
    path = both("W8A8 static").path
    with pytest.warns(QkitWarning, match=r"4 of 32 layers compute in float \(4: its two products"):
        qkit.load(path, runtime="int8")


def test_it_answers_as_an_open_clip_model(both, pixels, tokens):
    run = both("W8A8 static")
    model = run.int8.model
    image, text = features(model, pixels, tokens)
    with torch.no_grad():
        found = model(pixels, tokens)
        assert torch.equal(model.encode_image(pixels, normalize=True), F.normalize(image, dim=-1))
    torch.testing.assert_close(found[0], F.normalize(image, dim=-1))
    torch.testing.assert_close(found[1], F.normalize(text, dim=-1))
    assert torch.equal(model.logit_scale, run.simulated.model.logit_scale)
    assert run.int8.clip.tokenize(["a dog"]).shape == run.simulated.clip.tokenize(["a dog"]).shape
    assert not model.training


@pytest.mark.parametrize("count", [1, 3])
def test_any_batch_size_gives_the_same_rows(both, pixels, tokens, count):
    model = both("W8A8 static").int8.model
    image, text = features(model, pixels, tokens)
    few = features(model, pixels[:count], tokens[:count])
    torch.testing.assert_close(few[0], image[:count], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(few[1], text[:count], rtol=1e-4, atol=1e-5)


def test_gradients_are_not_asked_for(both, pixels):
    assert not both("W8A8 static").int8.model.encode_image(pixels).requires_grad


def test_no_float_copy_of_a_weight_is_kept(both):
    """Every float tensor that is alive with the model is small, or was stored in float."""
    run = int8(both("W8A8 static").path)
    stored = {k: v for k, v in run.folder.tensors().items() if not k.endswith(".packed")}
    largest = max(v.numel() for v in stored.values() if v.is_floating_point())
    held = [*run.model.parameters(), *run.model.buffers()]
    assert max(t.numel() for t in held if t.is_floating_point()) <= largest
    weights = {layer.weight_shape.numel() for layer in run.layers} - {0}
    del stored
    gc.collect()
    sizes = {m.weight.untyped_storage().nbytes() for m in _modules(run) if hasattr(m, "weight")}
    assert max(sizes) <= 4 * largest < 4 * max(weights)


def _modules(run):
    return [*run.model.modules(), *(layer.module for layer in run.layers)]


def test_a_copy_computes_the_same(both, pixels, tokens):
    model = both("W4A4").int8.model
    expected = features(model, pixels, tokens)
    found = features(copy.deepcopy(model), pixels, tokens)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_it_stays_in_float32_between_its_products(both):
    with pytest.raises(ModelError, match=r"computes in float32 .* Leave it as it was loaded"):
        int8(both("W4A4").path).model.bfloat16()


def test_it_stays_where_its_packed_weights_are(both):
    with pytest.raises(ModelError, match=r"packed for the CPU. Load the run with device='cuda'"):
        int8(both("W4A4").path).model.to("meta")


def test_a_copy_of_exact_integers_moves_and_they_stay(both, pixels, tokens):
    model = int8(both("W8A8 static, attention in float").path, "exact").model
    expected = features(model, pixels, tokens)
    other = copy.deepcopy(model).to("meta")
    assert all(t.is_meta for t in (*other.parameters(), *other.buffers()))
    assert other.encode_image(pixels.to("meta")).is_meta
    assert all(
        torch.equal(a, b) for a, b in zip(features(model, pixels, tokens), expected, strict=True)
    )


def test_where_it_is_it_may_be_put(both, pixels):
    model = both("W4A4").int8.model
    expected = model.encode_image(pixels)
    assert torch.equal(model.to("cpu", torch.float32).float().encode_image(pixels), expected)


def test_an_unknown_runtime(both):
    with pytest.raises(ModelError, match=r"unknown runtime 'int3'. Use one of: int8, int4, exact."):
        qkit.load(both("W4A4").path, runtime="int3")


def test_a_simulated_run_does_not_compute_in_integers(both):
    runs = both("W4A4")
    assert runs.int8.execution.name == "int8"
    with pytest.raises(ModelError, match=r"is simulated in float. Load it with a runtime"):
        _ = qkit.load(runs.path).execution


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:99", "torch sees no device 'cuda:99'. Use 'cpu'."),
        ("mps", "unknown device 'mps'. Use one of: cpu, cuda."),
        ("gpu", "unknown device 'gpu'. Use one of: cpu, cuda."),
    ],
)
@pytest.mark.parametrize("runtime", [None, "int8"])
def test_a_device_that_is_not_there(both, runtime, device, said):
    with pytest.raises(ModelError, match=said):
        qkit.load(both("W4A4").path, runtime=runtime, device=device)


def test_another_product_stands_in_for_missing_kernels(both, pixels, tokens, monkeypatch):
    monkeypatch.setattr(kernels, "_has_onednn", lambda: False)
    name = "W8A8 static, attention in float"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = qkit.load(both(name).path, runtime="int8")
    assert "no oneDNN int8 kernels: integers are multiplied by torch._int_mm" in str(
        told[0].message
    )
    assert run.runtime.kernel == "torch._int_mm"
    found = features(run.model, pixels, tokens)
    exact = features(int8(both(name).path, "exact").model, pixels, tokens)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", WAYS)
def test_on_a_cuda_device(both, name, pixels, tokens):
    path = both(name).path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QkitWarning)
        model = qkit.load(path, runtime="int8", device="cuda").model
    found = [f.cpu() for f in features(model, pixels.cuda(), tokens.cuda())]
    assert least_cosine(found, features(both(name).int8.model, pixels, tokens)) >= COSINE


def test_no_run_folder(tmp_path):
    with pytest.raises(ArtifactError, match="is no run folder"):
        qkit.load(tmp_path, runtime="int8")


ODD = {
    "one scale a channel": Scheme(WEIGHT, QuantSpec(8, granularity=Granularity.CHANNEL)),
    "grid = 'twin-signed'": Scheme(WEIGHT, QuantSpec(4, grid=GridKind.TWIN_SIGNED)),
    "its input stays in float": Scheme(WEIGHT, None),
    "its weight stays in float": Scheme(None, QuantSpec(8)),
    "the recipe leaves it in float": Scheme(),
}


@pytest.mark.parametrize("reason", ODD)
def test_layers_that_no_kernel_runs_compute_as_before_and_are_named(
    save_run, pixels, tokens, reason
):
    some = SchemeRule(r"re:.*resblocks\.0\.mlp\.c_fc", scheme=ODD[reason])
    recipe = Recipe((some, *FLOAT_CORE.rules))
    path = save_run(bits=None, recipe=recipe, overrides=qkit.Overrides(samples=4))
    run = int8(path)
    named = [f for f in run.runtime.fallbacks if f.layer.endswith("c_fc")]
    assert [f.layer.split(".")[0] for f in named] == ["visual", "transformer"]
    assert all(reason in f.reason for f in named)
    simulated = features(qkit.load(path).model, pixels, tokens)
    assert least_cosine(features(run.model, pixels, tokens), simulated) >= COSINE


def test_projections_of_one_input_fall_back_together(save_run, pixels, tokens):
    alone = SchemeRule("*resblocks.0.attn.k_proj", scheme=Scheme(None, QuantSpec(8)))
    recipe = Recipe((alone, *FLOAT_CORE.rules))
    path = save_run(bits=None, recipe=recipe, overrides=qkit.Overrides(samples=4))
    run = int8(path)
    named = [f.layer for f in run.runtime.fallbacks if "resblocks.0.attn." in f.layer]
    assert sorted(name.rpartition(".")[2] for name in named) == sorted(
        2 * ["q_proj", "k_proj", "v_proj", "sdpa"]
    )
    simulated = features(qkit.load(path).model, pixels, tokens)
    assert least_cosine(features(run.model, pixels, tokens), simulated) >= COSINE
