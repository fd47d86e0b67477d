"""A server's tokenizer, as the user names it: conversations as text and as tokens, without asking the server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from testbed.errors import ModelError
from testbed.models.chat_echo import WRITTEN, Echo
from testbed.models.chat_parts import is_part
from testbed.models.chat_score import OtherTokens
from testbed.models.hf_files import SETTINGS, read_tokenizer, stop_ids
from testbed.models.hf_text import REJECTIONS, TextCodec

UNREADABLE = ("\ufffd", "bytes:")  # how servers write tokens that are no whole characters
_ASKED = {"role": "user", "content": "What is 12 and 30?"}
_SAID = "zq7said"
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_DAYS = datetime(2024, 7, 26, tzinfo=UTC), datetime(2031, 11, 3, tzinfo=UTC)  # nothing of one is as in the other


class StatedTokenizer:
    """A transformers tokenizer with a chat template.

    Args:
        name: a directory, or a name on the Hugging Face Hub.

    Attributes:
        ends: the tokens that end a message and their texts, by id: those of the model's settings, where they stand
            beside the tokenizer, its own, and the one that the chat template writes right behind a message.

    Raises:
        ModelError: it cannot be loaded, has no chat template, or does not say where its tokens stand in a text.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._day = datetime.now().astimezone()  # some templates write it: all of a scoring is read on one day
        place = str(Path(name).expanduser())
        self._tokenizer = read_tokenizer(place, f"the tokenizer {name!r} cannot be loaded", fetch=True)
        if not self._tokenizer.chat_template:
            raise ModelError(f"the tokenizer {name!r} has no chat template, so it cannot say how conversations look.")
        if not self._tokenizer.is_fast:
            raise ModelError(f"the tokenizer {name!r} has no tokenizer.json, so it cannot say where its tokens stand.")
        added = {id for id, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        self._special = added | set(self._tokenizer.all_special_ids)
        stops = TextCodec(self._tokenizer, stop_ids(_settings(place), self._tokenizer), "", name).end_ids
        self.ends = {id: self._spelling(id) for id in sorted(stops | self._closing())}

    @property
    def bos(self) -> str:
        """The beginning-of-text token; "" where it has none."""
        return str(self._tokenizer.bos_token or "")

    def is_dated(self, body: Mapping[str, Any]) -> bool:
        """Whether the chat template writes into a conversation on which day that is."""
        one, other = (self.render(body, go_on=True, day=day) for day in _DAYS)
        return one != other

    def render(self, body: Mapping[str, Any], *, go_on: bool, day: datetime | None = None) -> str:
        """A conversation as text.

        Args:
            body: its `messages` and `tools` in OpenAI's form; `chat_template_kwargs`, as servers take them.
            go_on: whether to open the model's next message.
            day: for templates that write it; by default the one on which this tokenizer was loaded.

        Raises:
            ModelError: the chat template refuses it.
        """
        messages = [{**message, "content": message.get("content") or ""} for message in body["messages"]]
        for message in messages:
            if calls := message.get("tool_calls"):  # templates expect objects, as servers give them
                message["tool_calls"] = [_with_object(call) for call in calls]
        try:
            made = self._tokenizer.apply_chat_template(
                messages,
                tools=body.get("tools"),
                add_generation_prompt=go_on,
                chat_template=_on(day or self._day, self._tokenizer.chat_template),
                tokenize=False,
                **(body.get("chat_template_kwargs") or {}),
            )
        except REJECTIONS as error:
            raise ModelError(
                f"the chat template of {self.name} refuses this conversation: {str(error).rstrip('.')}."
            ) from error
        return str(made)

    def encode(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """Token ids of `text`, and the places that they cover; those of one split character all cover it."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        covers, reached = [], 0
        for begin, end in encoded["offset_mapping"]:  # blanks before a word are left out of some
            covers.append((min(begin, reached), end))
            reached = max(reached, end)
        return tuple(encoded["input_ids"]), covers

    def shown(self, ids: Sequence[int], pieces: Sequence[str], told: Echo) -> Sequence[int]:
        """Which of the tokens `ids` a server tells of, in order.

        Args:
            ids: the tokens of a prompt.
            pieces: what they cover of it.
            told: what the server says of it.

        Raises:
            OtherTokens: the server read others.
        """
        if told.count != len(ids):
            raise OtherTokens(
                f"the server read {told.count or 'an unknown number of'} tokens, where the tokenizer {self.name!r} has "
                f"{len(ids)}"
            )
        everything = range(len(ids))
        begun = [n for n in everything if not (self.bos and pieces[n] == self.bos)]  # llama-cpp-python tells no others
        strange: list[tuple[str, str]] = []
        fitting: list[Sequence[int]] = []
        for some in [everything] if len(begun) == len(ids) else [everything, begun]:
            if not 0 <= len(told.tokens) - len(some) <= WRITTEN:
                continue
            others = (
                (text, pieces[n])
                for text, n in zip(told.tokens, some, strict=False)
                if not self._fits(text, ids[n], pieces[n])
            )
            if (other := next(others, None)) is None:
                fitting.append(some)
            else:
                strange.append(other)
        if len(fitting) != 1:
            where = f": {strange[0][0]!r} in place of {strange[0][1]!r}" if strange else ""
            raise OtherTokens(f"the server read other tokens than the tokenizer {self.name!r} has{where}")
        return fitting[0]

    def _fits(self, told: str, id: int, piece: str) -> bool:
        """Whether a token that the server tells can be `id`, which covers `piece`."""
        own = self._spelling(id)
        split = UNREADABLE[0] in own
        if not told.strip():  # some tell nothing of special tokens, and of parts of characters
            return not own.strip() or id in self._special or split
        if any(sign in told for sign in UNREADABLE):
            return split
        if split and is_part(told, piece):
            return True
        return told.strip() in (own.strip(), piece.strip(), own.replace(UNREADABLE[0], "").strip())

    def _spelling(self, id: int) -> str:
        return str(self._tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _closing(self) -> set[int]:
        """The special token that the chat template writes right behind what a model said; none where it does not."""
        try:
            text = self.render({"messages": [_ASKED, {"role": "assistant", "content": _SAID}]}, go_on=False)
        except ModelError:  # told of the conversations that are to be scored
            return set()
        before, said, _ = text.rpartition(_SAID)
        behind = [id for id, (begin, _) in zip(*self.encode(text), strict=True) if begin >= len(before + said)]
        return set(behind[:1]) & self._special if said else set()


def _settings(place: str) -> Path:
    """The directory with the model's settings, fetched from the Hub; without any where there are none."""
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = [cached_file(place, file, **quiet) for file in SETTINGS]
    return next((Path(file).parent for file in found if file), Path(place))


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}


def _on(day: datetime, template: Any) -> str | None:
    """A chat template as it is on `day`; None for one of several, which is as it is today."""
    return _NOW.sub(lambda now: json.dumps(day.strftime(now[2])), template) if isinstance(template, str) else None
