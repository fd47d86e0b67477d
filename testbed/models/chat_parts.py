"""Characters of several tokens, where a server writes their parts as the bytes that they are: SGLang's `echo` does.

A byte is then the Latin-1 character of its number: of "é" the first part is written "Ã", the second "©". Tokens that
are whole texts are written as they are, so that only what was said tells a part from a letter of its look.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from dataclasses import replace

from testbed.models.chat_echo import Echo

_BYTES = "latin-1"


def in_characters(read: Echo, said: Iterable[str]) -> Echo:
    """A prompt in whose tokens what was said is found: with characters put together, else as they are told.

    In this order, since "Ã" is its own first part: what ends with it is found among its parts, but for the last one.

    Args:
        read: the prompt as the server says that it read it.
        said: texts that must be among its tokens.
    """
    tokens = put_together(read.tokens)
    text = "".join(tokens)
    return replace(read, tokens=tokens) if all(each in text for each in said) else read


def put_together(tokens: Sequence[str]) -> tuple[str, ...]:
    """Texts of tokens with each character where the last of its parts stands: the others have no text of it.

    Args:
        tokens: their texts, as a server that writes parts as bytes tells them, one after the other.
    """
    made: list[str] = []
    while len(made) < len(tokens):
        made += _parts(tokens, len(made)) or [tokens[len(made)]]
    return tuple(made)


def is_part(told: str, text: str) -> bool:
    """Whether what a server tells of a token can be bytes of `text`."""
    try:
        return bool(told) and told.encode(_BYTES) in text.encode()
    except UnicodeEncodeError:
        return False


def _parts(tokens: Sequence[str], begin: int) -> list[str]:
    """Texts of the tokens from `begin` on that share characters; none where that token is a text of its own."""
    decoder = getincrementaldecoder("utf-8")()
    texts: list[str] = []
    for n in range(begin, len(tokens)):
        try:
            texts.append(decoder.decode(tokens[n].encode(_BYTES)))
        except UnicodeError:  # no Latin-1, or no UTF-8
            return []
        if not decoder.getstate()[0]:
            return texts if len(texts) > 1 else []
    return []
