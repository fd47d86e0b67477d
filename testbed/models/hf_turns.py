"""Who may use the GPUs: many threads at once, or one alone.

What is recorded on a GPU can be spoilt by what another thread asks of it meanwhile, and a spoilt recording may leave
PyTorch's memory in a state in which the process ends later. So no other model is at work while one is recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Turns:
    """Turns of threads: those that share wait while one is alone, or waits to be."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._waiting = 0
        self._taken = False
        self._own = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """A turn beside others; within another one of the same thread, it is that."""
        if getattr(self._own, "inside", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._waiting)
            self._inside += 1
        self._own.inside = True
        try:
            yield
        finally:
            self._own.inside = False
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A turn without others, within a shared one: all who have a turn have left, or wait for this themselves."""
        with self.shared():
            with self._changed:
                self._waiting += 1
                self._changed.notify_all()
                try:
                    self._changed.wait_for(lambda: not self._taken and self._inside == self._waiting)
                finally:
                    self._waiting -= 1
                self._taken = True
            try:
                yield
            finally:
                with self._changed:
                    self._taken = False
                    self._changed.notify_all()


on_gpus = Turns()


def turn_on(device: str) -> Callable[[], AbstractContextManager[object]]:
    """What a model on a device, such as "cuda:0", does its work within."""
    return on_gpus.shared if device.startswith("cuda") else nullcontext
