"""Names that read alike: in another case, in other styles, or with letters of other scripts that look like Latin ones.

After the skeletons of Unicode Technical Standard 39, for names that are mostly Latin. A name in another script passes,
whatever its length, unless each of its letters looks like the one that stands there.
"""

from __future__ import annotations

import re
import unicodedata

import regex

_UNSEEN = regex.compile(r"[\p{C}\p{M}\p{Z}\p{Default_Ignorable_Code_Point}\u2800]+")  # and the empty cell of braille
# What is left of a letter without its strokes, hooks and boxes: "LATIN SMALL LETTER O WITH STROKE" is an o.
_OF_LATIN = re.compile(
    "(?:LATIN (?:CAPITAL|SMALL) LETTER|LATIN LETTER SMALL CAPITAL|REGIONAL INDICATOR SYMBOL LETTER) "
    "(?:DOTLESS )?([A-Z])(?: WITH .+)?$"
)
# By letter or digit, what looks like either of its cases: in Cyrillic, Greek, Coptic, Armenian, Cherokee, Canadian
# syllabics, Lisu and a few others.
_LOOKS_LIKE = {
    "a": "АаΑαⲀⲁᎪꓮɑᗅ",
    "b": "ВвЬьΒⲂᏴᏏꓐᗷ",
    "c": "СсϹϲⲤⲥᏟꓚᑕ",
    "d": "ԀԁᎠᏧꓓᗞᗪᑯ",
    "e": "ЕеҼҽΕⲈᎬꓰ℮",
    "f": "ϜϝքꓝꞘᖴ",
    "g": "ԌԍցᏀᏳꓖɡ",
    "h": "НнҺһΗⲎհᎻᏂꓧᕼ",
    "i": "ІіӀӏΙιⲒᎥꓲו∣│ǀƖɩا١۱ן",
    "j": "ЈјϳͿյᎫꓙᒍ",
    "k": "КкΚκⲔᏦꓗ",
    "l": "ԼᏞꓡⅬᒪ",
    "m": "МмΜϺⲘᎷꓟᗰ",
    "n": "ΝηⲚոռꓠп",
    "o": "ОоΟοσⲞⲟՕօסㅇ〇ꓳهہھە",
    "p": "РрΡρⲢⲣᏢꓑᑭ",
    "q": "ԚԛգզႳ",
    "r": "гᎡᏒꓣᖇƦᴦⲅ",
    "s": "ЅѕՏᏚᏕꓢ",
    "t": "ТтΤτⲦᎢꓔ",
    "u": "υՍսꓴᑌʋ",
    "v": "ѴѵνᏙꓦטᐯ",
    "w": "ԜԝѡωաᎳᏔꓪɯ",
    "x": "ХхΧχⲬꓫ×᙭",
    "y": "УуҮүΥγⲨᎩᎽꓬყ",
    "z": "ΖⲌᏃꓜ",
    "3": "ЗзӠӡƷʒȝ",
    "4": "Ꮞ",
    "6": "бᏮ",
    "8": "Ȣȣ",
}
_LOOKS = {ord(other): letter for letter, others in _LOOKS_LIKE.items() for other in others}
_TAKEN_FOR = str.maketrans("01i|", "olll")
_JOINED = {"rn": "m", "vv": "w"}


def read_alike(one: str, other: str) -> bool:
    """Whether two names read the same to people who do not look closely."""
    return _skeleton(one) == _skeleton(other)


def _skeleton(name: str) -> str:
    """A name without case, marks and what cannot be seen; what is taken for a Latin letter, or a digit, is that."""
    plain = unicodedata.normalize("NFKD", name.translate(_LOOKS)).translate(_LOOKS)
    text = "".join(map(_latin, _UNSEEN.sub("", plain))).casefold().translate(_LOOKS).translate(_TAKEN_FOR)
    for pair, letter in _JOINED.items():
        text = text.replace(pair, letter)
    return text


def _latin(letter: str) -> str:
    """What one character is taken for."""
    if letter.isascii():
        return letter
    if unicodedata.category(letter) == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    if unicodedata.digit(letter, None) == 0:  # round in nearly all scripts
        return "0"
    found = _OF_LATIN.search(unicodedata.name(letter, ""))
    return found[1] if found else letter
