"""What OpenAI's and open_clip's tokenisers do to a text before they split it, which transformers' does not."""

from __future__ import annotations

import html

TEXT_CLEANINGS = ("none", "openai")
"""Values of `text_cleaning`: "none" leaves a text to the tokeniser; "openai" applies `clean_text` first."""


def clean_text(text: str) -> str:
    """Repair the encoding, unescape HTML entities (twice: "&amp;lt;" is "<"), collapse whitespace, lowercase.

    Curly quotes become straight, mojibake what it was meant to be, a no-break space a space.
    Source: the text preprocessing of OpenAI's CLIP, which open_clip shares.
    """
    import ftfy  # 80 ms, and most models do not need it

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
