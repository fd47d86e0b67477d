"""Products of a small model's layers on the processor, by the function that is compiled for them.

PyTorch hands products in float32 to MKL, whose rows of fewer than sixteen depend on their batch-mates, and which keeps
to 256-bit instructions on processors that are not Intel's. For oneDNN, which comes with PyTorch too, a call takes 10 to
20 µs longer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from testbed.models.hf_kernel_code import runs
from testbed.models.hf_product import Weights

Tensor = torch.Tensor

_SMALL = 1 << 28  # bytes of weights: of each, a second copy is made in the function's own order


class _Copy(NamedTuple):
    """Weights in the function's own order, and what tells those that they were from others.

    These are kept as long as the copy, since others may come to lie in their place once they are gone.
    """

    weights: Weights
    weight: Tensor
    bias: Tensor | None
    state: tuple[int, ...]


class _Compiled(nn.Module):
    """A layer whose products are compiled; the layer that it was makes all others."""

    _ordered: _Copy | None = None
    _crosswise = False  # whether its weights have the shape (width, columns)

    def forward(self, input: Tensor) -> Tensor:
        """As the layer that it was."""
        if torch.is_grad_enabled():  # the function has no derivative
            if self._ordered is not None:  # an optimizer may come next, and fused ones do not tell that they were here
                self._ordered = None
            return self._plain(input)
        # At every token: to look them up as attributes takes its time. Hooks may have taken them away.
        weight: Any = self._parameters.get("weight")
        bias: Any = self._parameters.get("bias", ())
        # It takes no other types, and those of a class of their own may lie nowhere.
        if (
            type(weight) is not nn.Parameter
            or (bias is not None and type(bias) is not nn.Parameter)
            or type(input) is not Tensor
            or not weight.dtype is input.dtype is torch.float32
            or not weight.is_cpu
            or not input.is_cpu
            or input.shape[-1] != weight.shape[not self._crosswise]
        ):
            return self._plain(input)
        # Derivatives that wait may yet be applied by a fused optimizer.
        if weight.grad is not None or (bias is not None and bias.grad is not None):
            return self._plain(input)
        try:
            now = weight.data_ptr(), weight._version, *(() if bias is None else (bias.data_ptr(), bias._version))
        except RuntimeError:  # made in inference mode, they do not tell when they change
            return self._plain(input)
        copy = self._ordered
        if copy is None or copy.weight is not weight or copy.bias is not bias or copy.state != now:
            with torch.inference_mode():
                ordered = Weights(weight.T if self._crosswise else weight, bias)
            copy = self._ordered = _Copy(ordered, weight, bias, now)
        return copy.weights.times(input)

    def _plain(self, input: Tensor) -> Tensor:
        found: Tensor = super().forward(input)
        return found

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Every change of type or device comes here, and may leave other weights where these were."""
        self._ordered = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """All but the copy, which is made where it is needed."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if not name.startswith("_ordered")}


class _Linear(_Compiled, nn.Linear):
    """PyTorch's own layer."""


class _Conv1D(_Compiled, Conv1D):  # type: ignore[misc]
    """GPT-2's."""

    _crosswise = True


_COMPILED = {nn.Linear: _Linear, Conv1D: _Conv1D}


def speed_up(model: Any) -> int:
    """Gives a model's plain layers the compiled product, with weights as they are now; returns how many have it.

    Layers of a class of their own stay as they are, and so does a model whose weights are many or not float32.
    """
    size = sum(weight.nbytes for weight in model.parameters())
    if model.device.type != "cpu" or model.dtype != torch.float32 or size > _SMALL or not runs():
        return 0
    for layer in model.modules():
        made = _COMPILED.get(type(layer))
        # Weights made in inference mode do not tell when they change.
        if made is not None and not any(
            each.is_inference() or each.dtype != torch.float32 for each in layer.parameters(recurse=False)
        ):
            layer.__class__ = made
        if isinstance(layer, _Compiled):
            layer._ordered = None  # changes by way of `.data` are not told either
    return sum(isinstance(layer, _Compiled) for layer in model.modules())
