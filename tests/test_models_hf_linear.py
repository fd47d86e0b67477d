"""Layers with compiled products: the same numbers, whatever the batch, and no other model touched."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from helpers.tiny_models import decode, random_model, rows
from testbed.models import hf_linear


def products_of(layer: nn.Linear) -> nn.Linear:
    layer.__class__ = hf_linear._Linear
    return layer


def products(model: nn.Module) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, hf_linear._Compiled)]


@pytest.mark.parametrize("rows", [0, 1, 17, 200])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_product_is_that_of_the_layer_it_was(rows: int, bias: bool) -> None:
    class Model(nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 24, bias=bias)

    torch.manual_seed(rows)
    model, given = Model(), torch.randn(rows, 1, 40)
    right = model.layer(given)
    assert hf_linear.speed_up(model) == 1
    torch.testing.assert_close(model.layer(given), right, rtol=1e-5, atol=1e-5)
    assert model.layer(given).shape == (rows, 1, 24)
    assert model.layer(given[:, 0]).shape == (rows, 24)


@torch.no_grad()
def test_a_row_has_the_same_product_whatever_its_batch_mates() -> None:
    model = random_model()
    hf_linear.speed_up(model)
    layer = products(model)[0]
    given = torch.randn(100, layer.in_features)
    whole = layer(given)
    for first, last in ((0, 1), (7, 40), (60, 100)):
        assert torch.equal(layer(given[first:last]), whole[first:last])


def test_every_linear_layer_is_changed_once_and_the_weights_are_those_they_were() -> None:
    model = random_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    many = sum(type(layer) is nn.Linear for layer in model.modules())
    assert hf_linear.speed_up(model) == many == len(products(model))
    assert hf_linear.speed_up(model) == many
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_derivatives_are_still_to_be_had() -> None:
    model = random_model()
    hf_linear.speed_up(model)
    model(torch.arange(6, 60)[None]).logits.sum().backward()
    assert all(layer.weight.grad is not None for layer in products(model))


@pytest.mark.parametrize("how", ["in place", "loaded", "another type and back"])
def test_weights_that_change_afterwards_are_the_ones_that_count(how: str) -> None:
    model, ids = random_model(), torch.arange(6, 60)[None]
    hf_linear.speed_up(model)
    with torch.inference_mode():
        model(ids)
    if how == "in place":
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.5)
    elif how == "loaded":
        model.load_state_dict({name: weight * 0.5 for name, weight in model.state_dict().items()})
    else:
        model.to(torch.bfloat16)
        with torch.inference_mode():
            assert model(ids).logits.dtype == torch.bfloat16
        model.to(torch.float32)
    plain = random_model().to(torch.bfloat16 if "type" in how else torch.float32).to(torch.float32)
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_training_between_readings_counts_though_fused_steps_do_not_tell(
    optimizer: type[torch.optim.SGD | torch.optim.AdamW | torch.optim.Adagrad],
) -> None:
    layer, given = products_of(nn.Linear(8, 8)), torch.randn(3, 8)
    with torch.inference_mode():
        layer(given)
    layer(given).square().sum().backward()
    optimizer(layer.parameters(), lr=0.1, fused=True).step()
    with torch.inference_mode():
        torch.testing.assert_close(layer(given), nn.functional.linear(given, layer.weight, layer.bias))


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_a_reading_between_derivatives_and_a_fused_step_keeps_no_weights(trained: str) -> None:
    layer, given = products_of(nn.Linear(8, 8)), torch.randn(3, 8)
    for name, weight in layer.named_parameters():
        weight.requires_grad_(name == trained)
    layer(given).square().sum().backward()
    with torch.no_grad():
        layer(given)
    torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()
    with torch.no_grad():
        torch.testing.assert_close(layer(given), nn.functional.linear(given, layer.weight, layer.bias))


@pytest.mark.parametrize("name", ["weight", "bias"])
@torch.inference_mode()
def test_weights_made_in_inference_mode_later_on_are_read_as_they_are(name: str) -> None:
    layer, given = products_of(nn.Linear(8, 8)), torch.randn(3, 8)
    layer(given)
    setattr(layer, name, nn.Parameter(torch.randn_like(getattr(layer, name))))
    for _ in range(2):
        torch.testing.assert_close(layer(given), nn.functional.linear(given, layer.weight, layer.bias))
        getattr(layer, name).add_(1.0)


@torch.no_grad()
def test_a_new_decoder_sees_changes_that_are_not_told() -> None:
    model = random_model()
    hf_linear.speed_up(model)
    layer = products(model)[0]
    given = torch.randn(3, layer.in_features)
    before = layer(given)
    layer.weight.data += 1.0
    hf_linear.speed_up(model)
    torch.testing.assert_close(layer(given), before + given.sum(-1, keepdim=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.Tensor, nn.Parameter])
@torch.no_grad()
def test_weights_lent_for_one_call_count_though_others_lay_in_their_place(kind: type[torch.Tensor]) -> None:
    layer, given = products_of(nn.Linear(64, 64)), torch.randn(3, 64)
    for _ in range(10):
        lent = {name: kind(torch.randn_like(weight)) for name, weight in layer.state_dict().items()}
        found = torch.func.functional_call(layer, lent, (given,))
        torch.testing.assert_close(found, nn.functional.linear(given, **lent), rtol=1e-4, atol=1e-4)
        del lent


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("early", [True, False])
@torch.no_grad()
def test_what_a_hook_makes_of_the_weights_counts(name: str, early: bool) -> None:
    layer, given = nn.Linear(8, 8), torch.randn(3, 8)
    if early:
        products_of(layer)
    prune.ln_structured(layer, name, 0.5, n=2, dim=0) if name == "weight" else prune.random_unstructured(layer, name, 4)
    products_of(layer)
    torch.testing.assert_close(layer(given), nn.functional.linear(given, layer.weight, layer.bias))


@torch.no_grad()
def test_tensors_that_lie_nowhere_are_not_read() -> None:
    layer = products_of(nn.Linear(8, 4))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.randn(3, 8)).shape == (3, 4)
        assert products_of(nn.Linear(8, 4))(torch.randn(3, 8)).shape == (3, 4)


@torch.no_grad()
def test_rows_and_products_without_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that there are none of
        none, nowhere = products_of(nn.Linear(0, 4)), products_of(nn.Linear(4, 0))
    assert torch.equal(none(torch.randn(3, 0)), none.bias.expand(3, 4))
    assert nowhere(torch.randn(3, 4)).shape == (3, 0)


@torch.no_grad()
def test_a_faster_model_can_be_copied_and_saved_whole() -> None:
    model, ids, file = random_model(), torch.arange(6, 60)[None], io.BytesIO()
    hf_linear.speed_up(model)
    right = model(ids).logits
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(ids).logits, right)


@torch.no_grad()
def test_layers_whose_weights_lie_crosswise_are_compiled_too() -> None:
    model, ids = random_model("gpt2"), torch.arange(6, 60)[None]
    right = model(ids).logits
    layers = [layer for layer in model.modules() if type(layer) is Conv1D]
    hf_linear.speed_up(model)
    assert set(layers) < set(products(model))
    torch.testing.assert_close(model(ids).logits, right, rtol=1e-4, atol=1e-4)
    given = torch.randn(100, layers[0].nx)
    assert torch.equal(layers[0](given[5:6])[0], layers[0](given)[5])


@torch.inference_mode()
def test_the_copy_of_weights_is_made_once() -> None:
    model, ids = random_model(), torch.arange(6, 60)[None]
    hf_linear.speed_up(model)
    model(ids)
    copies = [layer._ordered for layer in products(model)]
    model(ids)
    assert None not in copies
    assert all(layer._ordered is one for layer, one in zip(products(model), copies, strict=True))


@torch.no_grad()
def test_a_bias_that_changes_counts_too() -> None:
    layer, given = products_of(nn.Linear(8, 8)), torch.randn(3, 8)
    before = layer(given)
    layer.bias += 1.0
    torch.testing.assert_close(layer(given), before + 1.0)


@torch.no_grad()
def test_what_does_not_fit_is_refused_as_ever() -> None:
    layer = products_of(nn.Linear(8, 8))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        layer(torch.randn(3, 4))
    with pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(3, 8, dtype=torch.float64))
    layer.weight = nn.Parameter(torch.randn(8, 4))  # of fewer numbers than the layer says
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        layer(torch.randn(3, 8))


def test_half_precision_large_models_and_layers_of_their_own_class_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Own(nn.Linear):
        pass

    assert hf_linear.speed_up(random_model().to(torch.bfloat16)) == 0
    model = random_model()
    model.lm_head.__class__ = Own
    hf_linear.speed_up(model)
    assert type(model.lm_head) is Own
    monkeypatch.setattr(hf_linear, "_SMALL", 1000)
    assert hf_linear.speed_up(random_model()) == 0


# In a process that may write no code: a layer alone, which needs little but PyTorch, or a model, for which all of
# transformers is loaded, three times as long.
NO_CODE = """
import ctypes, sys
import torch
from testbed.models import hf_linear
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE: memory that was written is not executed
    sys.exit(77)
"""
A_LAYER = f"""{NO_CODE}
class Model(torch.nn.Module):
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(40, 24)

torch.manual_seed(0)
model, given = Model(), torch.ones(3, 40)
right = model.layer(given)
print(hf_linear.speed_up(model), torch.equal(model.layer(given), right))
"""
A_MODEL = f"""
from helpers.tiny_models import decode, random_model, rows
{NO_CODE}
written, model = rows(3), random_model()
decode(model, written)
print(hf_linear.speed_up(model), [row.tokens for row in written])
"""


def where_no_code_may_be_written(program: str) -> str:
    """What a program prints there."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this system has no such rule")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_where_nothing_that_was_written_may_be_executed_a_layer_makes_its_own_products() -> None:
    assert where_no_code_may_be_written(A_LAYER) == "0 True\n"


@pytest.mark.slow
def test_where_nothing_that_was_written_may_be_executed_the_model_writes_by_its_own_products() -> None:
    there = rows(3)
    decode(random_model(), there)
    assert where_no_code_may_be_written(A_MODEL) == f"0 {[row.tokens for row in there]}\n"
