"""Products of a small model's layers on the processor, by the library that uses all of it.

PyTorch hands products in float32 to MKL, which keeps to 256-bit instructions on processors that are not Intel's. oneDNN
comes with PyTorch too, uses what the processor has, and gives a row of a batch the same numbers whatever its
batch-mates are, which MKL does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor

# Rows of a product come in multiples of this: oneDNN prepares itself for each number of rows anew, which costs as much
# as ten products. Fewer rows than this are MKL's.
STEP = 16
_SMALL = 1 << 28  # bytes of weights: of each, a second copy is made in oneDNN's own order
_OP: Any = torch.ops.mkldnn._linear_pointwise.default if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None


class _Product(nn.Linear):
    """A layer whose products with many rows are oneDNN's."""

    _ordered: Tensor | None = None  # a copy of its weights
    _ordered_as: tuple[int, int] | None = None  # what tells those weights from others

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        rows = input.numel() // self.in_features
        # oneDNN's product has no derivative, and neither other types nor what autocast makes of them.
        if rows < STEP or torch.is_grad_enabled() or not self.weight.dtype == input.dtype == torch.float32:
            return nn.functional.linear(input, self.weight, self.bias)
        if not (lacks := -rows % STEP):
            whole: Tensor = _OP(input, self.ordered, self.bias, "none", [], "")
            return whole
        flat = nn.functional.pad(input.reshape(rows, self.in_features), (0, 0, 0, lacks))
        found: Tensor = _OP(flat, self.ordered, self.bias, "none", [], "")
        return found[:rows].view(*input.shape[:-1], self.out_features)

    @property
    def ordered(self) -> Tensor:
        """The weights in oneDNN's order; made anew where they have changed since, by training or loading."""
        now = self.weight.data_ptr(), self.weight._version
        if self._ordered is None or self._ordered_as != now:
            with torch.inference_mode():
                self._ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), 16 * STEP)
            self._ordered_as = now
        return self._ordered

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Every change of type or device comes here, and may leave other weights where these were."""
        self._ordered = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """All but the copy, which can neither be copied nor saved."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if not name.startswith("_ordered")}


def speed_up(model: Any) -> int:
    """Gives a model's plain linear layers the faster product, where there is one; returns how many have it.

    Layers of a class of their own stay as they are, and so does a model whose weights are many or not float32.
    """
    size = sum(weight.nbytes for weight in model.parameters())
    if model.device.type != "cpu" or model.dtype != torch.float32 or size > _SMALL or not _is_faster():
        return 0
    for layer in model.modules():
        weight = layer.weight if type(layer) is nn.Linear else None
        # Weights made in inference mode do not tell when they change.
        if weight is not None and weight.dtype == torch.float32 and not weight.is_inference():
            layer.__class__ = _Product
    return sum(type(layer) is _Product for layer in model.modules())


def _is_faster() -> bool:
    backends: Any = torch.backends
    if _OP is None or not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False  # there is no choice
    return "AVX512" in str(backends.cpu.get_cpu_capability())
