"""Makes the environments known to Gymnasium as soon as somebody loads it, and not before.

Loading Gymnasium and numpy takes longer than everything else that ``testbed --help`` does, and most commands that only
read a store or a file need neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMESPACE = "testbed/"
REMOTE = "testbed/Remote-v0"  # a client of other machines' tasks, which the registry therefore does not list


def register_when_loaded() -> None:
    """Registers every environment now if Gymnasium is loaded, else at the end of its import."""
    if "gymnasium" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    import gymnasium

    from testbed.registry import env_names

    register_with_gymnasium(env_names())
    if REMOTE not in gymnasium.registry:
        gymnasium.register(REMOTE, entry_point="testbed.envs.remote:Remote")


def register_with_gymnasium(names: Iterable[str]) -> None:
    """Makes environments known to `gymnasium.make` as "testbed/NAME"; nothing is imported until one is made.

    Raises:
        UsageError: a name is no id that Gymnasium takes.
    """
    import gymnasium

    from testbed.builtin import ENV_ID
    from testbed.errors import UsageError

    for name in names:
        if not ENV_ID.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be an environment's id: write NAME-v0, of letters, digits, '.', '-', '_'."
            )
        if NAMESPACE + name not in gymnasium.registry:
            gymnasium.register(NAMESPACE + name, entry_point="testbed.registry:make_env", kwargs={"name": name})


class _Watch(MetaPathFinder):
    """Finds Gymnasium where it would be found without it, to see when it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, self)
        return spec


class _Registering(Loader):
    """A loader that registers the environments after it has done what another loader does."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # resources and tracebacks are read through it
        self._loader.exec_module(module)
        if self._watch in sys.meta_path:
            sys.meta_path.remove(self._watch)
        _register()
