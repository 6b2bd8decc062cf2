# SPDX-License-Identifier: MIT
"""Where text is cut before byte pairs are merged: the names that GGUF files use, and the pre-tokenizers of tokenizer.json.

A list of PCRE2 patterns (UTF and UCP on): each cuts every piece of the text into its matches and what lies between.
The patterns are part of the tokenizers that they were trained with; they are data, not choices of ours.
"""
import re

from . import ConvertError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(numbers):
    """The family of GPT-4's pattern; models differ in how many digits stay together."""
    return (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


LLAMA3 = _words(r"\p{N}{1,3}")
QWEN2 = _words(r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# tokenizer.ggml.pre -> patterns. What a GGUF that does not say gets is llama.cpp's default.
BY_NAME = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    **dict.fromkeys(["gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat"], [GPT2]),
    **dict.fromkeys(["llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"], [LLAMA3]),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "stablelm2"], [QWEN2]),
    **dict.fromkeys(["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"], [r"\p{N}", GPT2]),
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "tekken": [TEKKEN],
}
IGNORE_MERGES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}
ADD_BOS = {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}


def by_name(pre):
    if pre not in BY_NAME:
        raise ConvertError(f"pre-tokenizer '{pre}' is unknown; known are {', '.join(sorted(BY_NAME))}")
    return list(BY_NAME[pre])


def _pattern(regex):
    """Oniguruma's dialect, which tokenizer.json uses, is PCRE2's but for a few rare constructs; those are refused."""
    depth = 0
    for match in re.finditer(r"\\(.)|\[:|(\[)|(\])|(&&)", regex, re.S):
        if match[1] in ("h", "H", "X", "K", "G", "y", "Y", "O"):
            raise ConvertError(f"the pre-tokenizer's pattern {regex!r} uses \\{match[1]}, which means another thing in PCRE2")
        depth += (match[2] is not None) - (match[3] is not None and depth > 0)
        if depth > 1 or (match[4] and depth):
            raise ConvertError(f"the pre-tokenizer's pattern {regex!r} nests or intersects classes, which PCRE2 does not know")
    return regex


def _split(pre):
    how, given = pre.get("behavior"), pre.get("pattern", {})
    if "Regex" in given:
        pattern = _pattern(given["Regex"])
    elif "String" in given:
        pattern = re.escape(given["String"])
    else:
        raise ConvertError(f"pre-tokenizer Split has the pattern {given}")
    # "Removed" with "invert" keeps the matches; as such patterns match everything, nothing is lost.
    if how != "Isolated" and not (how == "Removed" and pre.get("invert")):
        raise ConvertError(f"pre-tokenizer Split with behavior '{how}' is not supported")
    return [pattern]


PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"


def of_json(pre):
    """(patterns, whether a space is put before the text, whether it is byte-level) of a "pre_tokenizer" of tokenizer.json."""
    if not pre:
        return [], False, False
    kind = pre.get("type")
    if kind == "Sequence":
        patterns, space, level = [], False, False
        for part in pre.get("pretokenizers", []):
            more, s, b = of_json(part)
            if s and patterns:
                raise ConvertError("pre-tokenizer ByteLevel with add_prefix_space after another cut is not supported")
            patterns, space, level = patterns + more, space or s, level or b
        return patterns, space, level
    if kind == "ByteLevel":
        return [GPT2] if pre.get("use_regex", True) else [], bool(pre.get("add_prefix_space")), True
    if kind == "Split":
        return _split(pre), False, False
    if kind == "Digits":
        return [r"\p{N}" if pre.get("individual_digits") else r"\p{N}+"], False, False
    if kind == "Punctuation" and pre.get("behavior", "Isolated") in ("Isolated", "Contiguous"):
        return [PUNCTUATION + ("+" if pre.get("behavior") == "Contiguous" else "")], False, False
    raise ConvertError(f"pre-tokenizer {kind} {pre.get('behavior', '')}".rstrip() + " is not supported")
