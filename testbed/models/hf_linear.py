"""Products of a small model's layers on the processor, by the function that is compiled for them.

PyTorch hands products in float32 to MKL, whose rows of fewer than sixteen depend on their batch-mates, and which keeps
to 256-bit instructions on processors that are not Intel's. For oneDNN, which comes with PyTorch too, a call takes 10 to
20 µs longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from testbed.models.hf_product import Weights

Tensor = torch.Tensor

_SMALL = 1 << 28  # bytes of weights: of each, a second copy is made in the function's own order


class _Product(nn.Linear):
    """A layer whose products are compiled."""

    _ordered: Weights | None = None  # a copy of its weights
    _ordered_as: tuple[int, ...] = ()  # what tells those weights from others

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        weight: Any = self._parameters["weight"]  # at every token, and looked up as an attribute is takes its time
        bias: Any = self._parameters["bias"]
        # The function has no derivative, and takes neither other types nor what autocast makes of them.
        if (
            torch.is_grad_enabled()
            or not weight.dtype is input.dtype is torch.float32
            or not weight.is_cpu
            or not input.is_cpu
            or input.shape[-1] != self.in_features
        ):
            return nn.functional.linear(input, weight, bias)
        now = weight.data_ptr(), weight._version, *(() if bias is None else (bias.data_ptr(), bias._version))
        if self._ordered is None or self._ordered_as != now:  # they have changed since, by training or loading
            with torch.inference_mode():
                self._ordered = Weights(weight, bias)
            self._ordered_as = now
        return self._ordered.times(input)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Every change of type or device comes here, and may leave other weights where these were."""
        self._ordered = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """All but the copy, which is made where it is needed."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if not name.startswith("_ordered")}


def speed_up(model: Any) -> int:
    """Gives a model's plain linear layers the compiled product; returns how many have it.

    Layers of a class of their own stay as they are, and so does a model whose weights are many or not float32.
    """
    size = sum(weight.nbytes for weight in model.parameters())
    if model.device.type != "cpu" or model.dtype != torch.float32 or size > _SMALL:
        return 0
    for layer in model.modules():
        weight = layer.weight if type(layer) is nn.Linear else None
        # Weights made in inference mode do not tell when they change.
        if (
            weight is not None
            and weight.dtype == torch.float32
            and not any(each.is_inference() for each in layer.parameters())
        ):
            layer.__class__ = _Product
    return sum(type(layer) is _Product for layer in model.modules())
