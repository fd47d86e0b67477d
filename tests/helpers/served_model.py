"""`transformers serve` with the reference model: a real server that speaks the OpenAI protocol."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import end
from testbed.models import reference_model

NAME, LISTED = "reference", "testbed/reference"
COMMIT = "0" * 40
PATIENCE = 120  # seconds until it must be up; mostly it imports torch
# How the server finds native calls in what the model writes, and shows them to it again.
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|end|>", "content": "text"},
    },
}
SAID, SAID_OR_CALLED = (
    "{{ message.content }}{% if not (message.content",
    "{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}{% if not (message.tool_calls or message.content",
)


@contextmanager
def served_reference(folder: Path) -> Iterator[str]:
    """The base URL of a server that is there until the end of the block.

    It loads the model that a request names, a folder or `LISTED`, and lists what lies in its cache: that alone.
    """
    write_model(folder / NAME)
    cached = folder / "home" / "hub" / f"models--{LISTED.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    write_model(cached / "snapshots" / COMMIT)
    log = folder / "serve.log"
    command = "from transformers.cli.transformers import main; main()"
    options = ["serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", command, *options], cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        yield f"http://127.0.0.1:{_port(process, log)}/v1"
    finally:
        end(process)


def write_model(folder: Path) -> Path:
    """The reference model, with what servers need to know of its native calls."""
    shutil.copytree(Path(reference_model.__file__).with_name("reference"), folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "response_template": RESPONSE}))
    template = folder / "chat_template.jinja"
    assert SAID in template.read_text()
    template.write_text(template.read_text().replace(SAID, SAID_OR_CALLED))
    return folder


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"running on http://[\d.]+:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.1)
    raise AssertionError(f"transformers serve is not up: {log.read_text()[-2000:]}")
