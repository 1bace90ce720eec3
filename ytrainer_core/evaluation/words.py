"""Texts as words, in any script: where a script writes no spaces, each character is a word."""

from __future__ import annotations

import re
import string
import unicodedata

# Thai, Lao, Burmese, Khmer, kana, Han.
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECE = re.compile(rf"[{_WITHOUT_SPACES}]|[^\s{_WITHOUT_SPACES}]+")
_SPACES_BESIDE = re.compile(rf"(?<=[{_WITHOUT_SPACES}])\s+|\s+(?=[{_WITHOUT_SPACES}])")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def pieces(text: str) -> list[str]:
    """What white space separates, and single characters of scripts without spaces."""
    return _PIECE.findall(text)


def words(text: str) -> list[str]:
    """`pieces` in one case and without punctuation; as they are where they hold nothing else."""
    folded = _folded(text)
    return pieces(_replace_punctuation(folded, " ")) or pieces(folded)


def normalized(text: str) -> str:
    """A text without what an answer's meaning does not depend on.

    Unicode's compatible forms become one (full width, ligatures), letters lower case; punctuation
    and English articles go, runs of white space become one blank, and none beside a script that
    writes no spaces. What would leave nothing is not done: the answer 'A' stays 'a'.
    Source: the script of SQuAD (Rajpurkar et al., arXiv 1606.05250), which knows English only and
    may leave nothing.
    """
    text = _folded(text)
    text = _collapsed(_replace_punctuation(text, "")) or _collapsed(text)
    return _collapsed(_ARTICLE.sub(" ", text)) or text


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _collapsed(text: str) -> str:
    return _SPACES_BESIDE.sub("", " ".join(text.split()))


def _replace_punctuation(text: str, by: str) -> str:
    return "".join(by if _is_punctuation(character) else character for character in text)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
