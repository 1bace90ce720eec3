"""Keys, tokens and passwords that open something.

Known kinds have a form of their own; what is assigned to a name like 'password' counts if it looks
drawn at random. Placeholders (xxxx, <your-key>, EXAMPLE) pass. Reasons show four characters.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from ytrainer_core.data.rules.found import Found, masked

# By a sign that each of them holds: (what a text must hold, what it is called, how it is written).
# Signs are looked for by plain search, because trying all patterns at every character takes a
# hundred times as long.
_KINDS: dict[str, tuple[tuple[str, str, re.Pattern[str]], ...]] = {
    "": (
        ("AKIA", "AWS access key", re.compile(r"\bAKIA[A-Z0-9]{16}\b")),
        ("ASIA", "AWS access key", re.compile(r"\bASIA[A-Z0-9]{16}\b")),
        ("AIza", "Google API key", re.compile(r"\bAIza[\w-]{35}(?![\w-])")),
        ("eyJ", "JSON Web Token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
        ("hooks.slack", "Slack webhook", re.compile(r"hooks\.slack\.com/services/[\w/]{30,}")),
    ),
    "-": (
        (
            "PRIVATE KEY",
            "private key",
            # a header alone is talk about keys
            re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----[\s\S]{0,200}?[\w+/]{40}"),
        ),
        ("glpat-", "GitLab token", re.compile(r"\bglpat-[\w-]{20,}")),
        ("xox", "Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}")),
        ("GOCSPX-", "Google client secret", re.compile(r"\bGOCSPX-[\w-]{28}")),
        ("sk-", "API key", re.compile(r"(?<![\w-])sk-(?:[a-z]+\d*-)*[A-Za-z0-9_-]{20,}")),
    ),
    "_": (
        ("gh", "GitHub token", re.compile(r"\bgh[opsur]_[A-Za-z0-9]{36,}\b")),
        ("github_pat_", "GitHub token", re.compile(r"\bgithub_pat_\w{60,}\b")),
        ("k_live_", "Stripe key", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,}")),
        ("hf_", "Hugging Face token", re.compile(r"\bhf_[A-Za-z]{30,}\b")),
        ("npm_", "npm token", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b")),
    ),
}
_NAMES = ("passw", "pwd", "secret", "apikey", "api_key", "api-key", "token", "密码")
_ASSIGNED = re.compile(
    r"(?:password|passwd|pwd|secret(?:[_-]?key)?|api[_-]?key|token|密码)[\"']?\s*(?:[=:：]|为|是)\s*"
    r"(?:[\"']([^\"'\s]{8,80})[\"']|([^\s\"',;<>(){}\[\]，。；]{8,80}))",
    re.IGNORECASE,
)
# Shannon's entropy of the characters of a value, bits per character: words lie below.
_LEAST_ENTROPY = 3.0
# Of small and capital letters, digits and signs, a short password has three kinds, a long key two.
_LONG_KEY = 20
_CLASSES = tuple(re.compile(kind) for kind in (r"[a-z]", r"[A-Z]", r"\d", r"[^a-zA-Z\d]"))
_PLACEHOLDER = re.compile(
    r"example|sample|your|dummy|placeholder|changeme|change_me|redacted|secret|passw|token|test"
    r"|xxx|\*\*\*|\.\.\.|1234|abcd|qwert|\$\{|\{\{|%\(|<|>|\(|::|\\|^\$|/",
    re.IGNORECASE,
)
_FILLED_IN = re.compile(r"example|xxx|your|\*\*\*|\.\.\.", re.IGNORECASE)
_REMEDY = "Revoke it if it is real, and put a placeholder in its place."


def secret(text: str) -> Found | None:
    return _of_a_kind(text) or _assigned(text)


def _of_a_kind(text: str) -> Found | None:
    for sign, kinds in _KINDS.items():
        if sign in text:
            for mark, name, pattern in kinds:
                if mark in text:
                    for found in pattern.finditer(text):
                        if name == "private key" or _is_drawn(found.group()):
                            return _found(found.start(), name, found.group())
    return None


def _assigned(text: str) -> Found | None:
    lower = text.lower()
    if len(lower) != len(text):  # a few capital letters (İ) have two small ones
        lower = text
    for name in _NAMES:
        at = lower.find(name)
        while at >= 0:
            if found := _ASSIGNED.match(text, at):
                group = 1 if found.group(1) else 2
                if _is_password(found.group(group)):
                    return _found(found.start(group), "password or key", found.group(group))
            at = lower.find(name, at + 1)
    return None


def _is_drawn(token: str) -> bool:
    small, capital, digit, _ = (bool(kind.search(token)) for kind in _CLASSES)
    return (
        (digit or (small and capital))
        and entropy(token) >= _LEAST_ENTROPY
        and not _FILLED_IN.search(token)
    )


def _is_password(value: str) -> bool:
    if _PLACEHOLDER.search(value) or entropy(value) < _LEAST_ENTROPY:
        return False
    kinds = sum(bool(kind.search(value)) for kind in _CLASSES)
    has_digit = bool(_CLASSES[2].search(value))
    return has_digit and kinds >= (2 if len(value) >= _LONG_KEY else 3)


def entropy(text: str) -> float:
    """Shannon's entropy of the characters of a text, bits per character; 0 where it is empty."""
    shares = (count / len(text) for count in Counter(text).values())
    return -sum(share * math.log2(share) for share in shares)


def _found(at: int, name: str, value: str) -> Found:
    return Found(at, f"what looks like a {name}, {masked(value)},", _REMEDY)
