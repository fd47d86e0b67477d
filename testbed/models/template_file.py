"""In which file a local model's chat template stands, so that an error in it can be mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import ModelError

FILES = ("chat_template.jinja", "chat_template.json")  # the first that is there; else the tokenizer's settings have it


@contextmanager
def naming_template(folder: Path) -> Iterator[None]:
    """Around the rendering of a conversation: says of what a chat template refuses where that template stands.

    Args:
        folder: the model's.

    Raises:
        ModelError: names the file.
    """
    try:
        yield
    except ModelError as error:
        file = next((folder / name for name in FILES if (folder / name).exists()), folder / "tokenizer_config.json")
        raise ModelError(f"{error} The template stands in {file}.") from error
