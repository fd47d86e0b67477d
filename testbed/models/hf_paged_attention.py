"""Attention over pages, as transformers' interface calls it: hands tensors to the compiled function."""

from __future__ import annotations

from typing import Self

import torch

from testbed.models.hf_attention import Attention
from testbed.models.hf_kernel import compiled, wide
from testbed.models.hf_pages import Pages
from testbed.models.hf_plan import Inputs, Plan, Table
from testbed.models.hf_threads import in_parts

Tensor = torch.Tensor


class PagedAttention(Attention):
    """Attention over pages.

    Args:
        pages: where keys and values lie.
        table: whose pages these are.
        inputs: of the passes, whose places are these tokens'.

    Attributes:
        layer: whose turn it is.
    """

    def __init__(self, pages: Pages, table: Table, inputs: Inputs) -> None:
        self._pages, self._table, self._inputs, self.layer = pages, table, inputs, 0
        self._plan: Plan
        self._cells = pages.cells.ctypes.data

    def over(self, plan: Plan) -> Self:
        """Attention of these tokens, where it is entered."""
        self._plan = plan
        return self

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Writes keys and values into pages; attention, query (1, heads, tokens, width), to (1, tokens, heads, …)."""
        plan, tokens = self._plan, len(self._plan.places)
        heads, padded, width = query.shape[1:]
        at, keyed, key_width, value_width = self._pages.shapes[self.layer]
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        if wide(width) != width:
            query = torch.nn.functional.pad(query, (0, wide(width) - width))
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = query.new_empty(1, padded, heads, wide(value_width))
        if padded > tokens:
            out[0, tokens:] = 0.0
        state = query.new_empty(tokens, heads, 2)
        pointers = [*(tensor.data_ptr() for tensor in (query, key, value, out, state)), self._cells + 4 * at]
        sizes = [tokens, len(plan.items), self._table.cells.shape[1], self._pages.stride, heads, keyed]

        function = compiled(key_width, value_width).call
        lines, starts, items = plan.addresses
        indices = [self._table.address, lines, self._inputs.places_at, starts, items]

        def run(first: int, last: int) -> None:
            function(*pointers, *indices, *sizes, first, last, scale)

        in_parts(run, keyed)
        return out[..., :value_width]
