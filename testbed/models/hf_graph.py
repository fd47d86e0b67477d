"""Recording on a GPU: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from testbed.models.hf_still import Recorder
from testbed.models.hf_turns import on_gpus


def recorder_for(device: torch.device) -> Recorder | None:
    """How steps are recorded on a device; None on those that have nothing to gain by it, and with PyTorch before 2.13.

    There, a recording that fails can end the process later, when memory is cleared.
    """
    if device.type != "cuda" or torch.__version__ < "2.13":
        return None
    # One stream for all: for each that products are made on, their library keeps memory of its own.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return Recorder(partial(_Graphs, stream), partial(_wait, device))


def _wait(device: torch.device) -> None:
    # For the stream only: where a device is recorded on, nobody may wait for all of it.
    torch.cuda.current_stream(device).synchronize()


class _Graphs:
    """Makes graphs that share the memory of what is between a step's inputs and its logits.

    Args:
        stream: that they are recorded on.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """The graph of a function, as a function.

        Raises:
            RuntimeError: it cannot be recorded, or there is no memory for it.
        """
        # An error in the middle of a recording leaves its stream in place of the usual one.
        with torch.cuda.device(self._stream.device), torch.cuda.stream(torch.cuda.current_stream(self._stream.device)):
            usual = torch.cuda.current_stream()
            self._stream.wait_stream(usual)
            try:
                with torch.cuda.stream(self._stream):
                    run()  # what libraries set up at their first call cannot be recorded
            finally:  # what was asked for before memory ran out is yet to be done, in the cache
                usual.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # One at a time in a process, says PyTorch. Threads that are not ours may ask for what they like.
            with (
                on_gpus.alone(),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                run()
        return graph.replay
