# SPDX-License-Identifier: MIT
"""tokenizer.json of the tokenizers library: byte-level BPE, Llama's BPE with byte fallback, unigram.

Llama's has merges but no scores; SentencePiece merges by score. Minus the rank of the merge that makes a token is a score
that gives the same order. Parts of the pipeline that we cannot carry are refused by their name.
"""
from . import ConvertError, splits
from .vocabulary import (ADDED, BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, Vocabulary, byte_token, from_letters,
                         merge_ids)

NEVER = -1e9  # the score of a token that no merge makes


def _parts(step, key):
    """A pipeline step as a flat list: a Sequence is its members."""
    if not step:
        return []
    if step.get("type") == "Sequence":
        return [p for member in step.get(key, []) for p in _parts(member, key)]
    return [step]


def _normalizer(text, v):
    for step in _parts(text.get("normalizer"), "normalizers"):
        kind, pattern = step.get("type"), step.get("pattern", {})
        if kind in ("NFC", "NFKC") and v.normalize == "none":
            v.normalize = kind.lower()
        elif kind == "Precompiled":
            v.normalize = "nfkc"
            v.notes.append("the tokenizer's precompiled normalizer is taken as NFKC; control characters may differ")
        elif kind == "Prepend" and step.get("prepend") == SPACE:
            v.add_space_prefix = True
        elif kind == "Replace" and pattern.get("Regex") == " {2,}" and step.get("content") in (" ", SPACE):
            v.remove_extra_spaces = True
        elif not (kind == "Replace" and pattern.get("String") == " " and step.get("content") == SPACE):
            raise ConvertError(f"normalizer {kind} {pattern or ''}".rstrip() + " is not supported")


def _pre_tokenizer(text, v):
    """Sets split and prefix; returns whether the tokens are in GPT-2's alphabet."""
    steps = _parts(text.get("pre_tokenizer"), "pretokenizers")
    for step in [s for s in steps if s.get("type") == "Metaspace"]:
        if step.get("replacement", SPACE) != SPACE:
            raise ConvertError(f"pre-tokenizer Metaspace with '{step.get('replacement')}' is not supported")
        v.add_space_prefix = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
        if any(s.get("type") == "WhitespaceSplit" for s in steps):
            v.remove_extra_spaces = True
        if len([s for s in steps if s.get("type") != "WhitespaceSplit"]) > 1:
            raise ConvertError("a pre-tokenizer of Metaspace and others is not supported")
        return False
    v.split, space, level = splits.of_json(text.get("pre_tokenizer"))
    v.add_space_prefix = v.add_space_prefix or space
    return level or any(s.get("type") == "ByteLevel" for s in _parts(text.get("decoder"), "decoders"))


def _post_processor(text, v, ids):
    """Which special tokens stand around a text."""
    for step in _parts(text.get("post_processor"), "processors"):
        if step.get("type") != "TemplateProcessing":
            continue
        before, after, seen = [], [], False
        for item in step.get("single", []):
            if "Sequence" in item:
                seen = True
            else:
                (after if seen else before).append(item["SpecialToken"]["id"])
        if len(before) > 1 or len(after) > 1:
            raise ConvertError(f"the post-processor puts {before} before and {after} after a text; one of each is supported")
        v.add_bos, v.add_eos = bool(before), bool(after)
        v.bos = ids.get(before[0], -1) if before else v.bos
        v.eos = [ids.get(after[0], -1)] if after else v.eos


def _merges(path, model):
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
    if any(len(pair) != 2 for pair in pairs):
        raise ConvertError(f"'{path}' has a merge that is not of two tokens")
    return pairs


def _place(path, v, vocab, added, fill):
    """Puts tokens at their ids; holes are unused. fill(text) gives bytes and type of an ordinary one."""
    ids = [*vocab.values(), *(a["id"] for a in added)]
    size = max(ids, default=-1) + 1
    if min(ids, default=0) < 0 or size > 4 * len(ids) + 1024:
        raise ConvertError(f"'{path}' has {len(ids)} tokens with ids from {min(ids)} to {size - 1}")
    v.tokens, v.types = [b""] * size, [UNUSED] * size
    for text, i in vocab.items():
        v.tokens[i], v.types[i] = fill(text)
    for a in added:
        v.tokens[a["id"]] = a["content"].encode("utf-8")
        v.types[a["id"]] = CONTROL if a.get("special") else ADDED
        if a.get("lstrip"):
            v.strip_left.append(a["id"])
        if a.get("rstrip"):
            v.strip_right.append(a["id"])


def load(path, text):
    """text: the parsed JSON."""
    model = text.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise ConvertError(f"'{path}' has no vocabulary: it is no tokenizer.json")
    try:
        return _load(path, text, model)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ConvertError(f"'{path}' is damaged: {type(error).__name__} {error}") from None
    except ConvertError as error:
        raise ConvertError(f"'{path}': {error}") from None


def _load(path, text, model):
    unigram = isinstance(model["vocab"], list)
    kind = model.get("type") or ("Unigram" if unigram else "BPE" if "merges" in model else "WordPiece")
    if kind not in ("BPE", "Unigram") or unigram != (kind == "Unigram"):
        raise ConvertError(f"tokenizers of type {kind} are not supported; BPE and Unigram are")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ConvertError(f"{key} {model[key]!r} is not supported")
    v = Vocabulary("unigram" if unigram else "spm", [], [])
    _normalizer(text, v)
    letters = _pre_tokenizer(text, v)
    if letters:
        if unigram:
            raise ConvertError("a byte-level unigram tokenizer is not supported")
        v.kind = "bpe"
    elif v.split:
        raise ConvertError("a BPE that is not byte-level but split by patterns is not supported")
    vocab = {piece: i for i, (piece, _) in enumerate(model["vocab"])} if unigram else model["vocab"]
    added = text.get("added_tokens") or []
    fallback = model.get("byte_fallback", False)

    def fill(piece):
        if letters:
            return from_letters(piece), NORMAL
        value = byte_token(piece) if fallback else None
        return (bytes([value]), BYTE) if value is not None else (piece.replace(SPACE, " ").encode("utf-8"), NORMAL)

    _place(path, v, vocab, added, fill)
    ids = vocab | {a["content"]: a["id"] for a in added}
    v.unk = model.get("unk_id", -1) if unigram else ids.get(model.get("unk_token"), -1)
    v.unk = -1 if v.unk is None else v.unk
    if v.kind != "bpe" and v.unk >= 0:
        v.types[v.unk] = UNKNOWN
    v.ignore_merges = bool(model.get("ignore_merges", False))
    _order(path, v, model, vocab, unigram)
    _post_processor(text, v, ids)
    return v


def _order(path, v, model, vocab, unigram):
    """Merges for byte-level BPE, scores for the others."""
    if unigram:
        v.scores = [0.0] * len(v.tokens)
        for i, (_, score) in enumerate(model["vocab"]):
            v.scores[i] = float(score)
        return
    pairs = _merges(path, model)
    merges = merge_ids(pairs, vocab)
    if v.kind == "bpe":
        v.merges = merges
        return
    v.scores = [NEVER if t == NORMAL else 0.0 for t in v.types]
    for rank in range(len(pairs) - 1, -1, -1):  # backwards, so that the best rank stays
        v.scores[vocab["".join(pairs[rank])]] = -float(rank)
    lost = sum(1 for i, t in enumerate(v.tokens) if v.scores[i] == NEVER and len(t.decode("utf-8", "replace")) > 1)
    if lost:
        v.notes.append(f"{lost} tokens of several letters are made by no merge and come last")
