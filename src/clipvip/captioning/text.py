"""From what a model says to a caption: one line, no repeats, no more words than wanted. Pure functions of strings."""

from __future__ import annotations

import re

_SOME = r"(?:the|this|an?)\s+(?:image|picture|photo|photograph|video frame|frame|scene)"
_OPENINGS = re.compile(
    r"(?:"
    r"\d{1,2}[.)]\s+|[-•>]\s+"  # of lists
    r"|(?:sure|certainly|of course|absolutely|okay)[!,.:]+\s*"
    r"|here(?:'s|’s| is| are)\b[^:.]{0,80}:\s*"
    r"|(?:(?:image|photo|short|brief|suggested|possible|final)\s+)*(?:captions?|description|answer)\s*:\s*"
    rf"|{_SOME}\s+(?:shows|depicts|displays|features|captures|presents|portrays)\s+"
    rf"|in\s+{_SOME},\s+"
    r")",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}
_REPEATS = 16  # nobody looks for the end of a model that went on for ever
_LOOSE_ENDS = " \t,;:-–—&/|(["


def clean_caption(text: str, max_words: int) -> str:
    """The first line with content, at most `max_words` words of it; "" if there is none.

    Left out: a reasoning model's thoughts, markdown, list marks, a chat model's preface ("Sure! Here's a caption:"),
    quotes around the whole, words that tell only that it is an image, words and phrases said again at once.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]  # an end alone: the template had opened it
    text = text.encode("utf-8", "ignore").decode()  # half characters
    text = re.sub(r"\*+|`+|^\s*#+|\ufffd", " ", text, flags=re.MULTILINE)
    for line in text.splitlines():
        words = _without_openings(" ".join(_printable(line).split())).split()
        words = _without_repeats(words[: _REPEATS * max_words])
        caption = " ".join(words[:max_words]).rstrip(_LOOSE_ENDS)
        if any(letter.isalnum() for letter in caption):
            return caption
    return ""


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in line)


def _without_openings(line: str) -> str:
    """Both may hide the other, so they are looked for again and again."""
    while True:
        before = line
        end = line.rstrip(". ")
        if len(end) > 1 and _QUOTES.get(end[0]) == end[-1]:
            line = end[1:-1].strip()
        if found := _OPENINGS.match(line):
            line = line[found.end() :]
        if line == before:
            return line


def _without_repeats(words: list[str]) -> list[str]:
    """Of a phrase that follows itself the first stays; case and punctuation do not make another."""
    kept: list[str] = []
    keys: list[str] = []
    for word in words:
        kept.append(word)
        keys.append(re.sub(r"\W+", "", word).casefold() or word)
        for length in range(1, len(keys) // 2 + 1):
            if keys[-length:] == keys[-2 * length : -length]:
                del kept[-length:], keys[-length:]
                break
    return kept
