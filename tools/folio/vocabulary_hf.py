# SPDX-License-Identifier: MIT
"""The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model, else vocab.json with merges.txt; and what the
small files beside it add: which tokens begin and end a text, added tokens, the chat template.
"""
import json
import os

from . import ConvertError, splits, vocabulary_json, vocabulary_spm
from .stored import map_file
from .vocabulary import ADDED, CONTROL, NORMAL, UNKNOWN, UNUSED, Vocabulary, from_letters, merge_ids

# What a vocab.json without tokenizer.json does not say: pattern and normalizer, by the class in tokenizer_config.json.
CLASSES = {"GPT2Tokenizer": (splits.GPT2, "none"), "Qwen2Tokenizer": (splits.QWEN2, "nfc")}


def _json(path):
    if not os.path.exists(path):
        return {}
    try:
        value = json.loads(bytes(map_file(path)))
    except ValueError as error:
        raise ConvertError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConvertError(f"'{path}' is not a JSON object")
    return value


def load(folder):
    """(Vocabulary or None, chat template or "")."""
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return load_file(path, map_file(path))
    return None, ""


def load_file(path, data):
    """The vocabulary of one of those files, with what lies beside it."""
    folder = os.path.dirname(path)
    config = _json(os.path.join(folder, "tokenizer_config.json"))
    if bytes(data[:64]).lstrip()[:1] == b"{":
        text = _json(path)
        v = vocabulary_json.load(path, text) if isinstance(text.get("model"), dict) else _pairs(path, text, config)
    else:
        v = vocabulary_spm.load(path)
    _added(folder, v, config)
    _specials(folder, v, config)
    return v, _chat(folder, config)


def _pairs(path, vocab, config):
    """GPT-2's two files."""
    side = os.path.join(os.path.dirname(path), "merges.txt")
    if not os.path.exists(side):
        raise ConvertError(f"'{path}' needs merges.txt beside it")
    if not vocab or any(not isinstance(i, int) for i in vocab.values()) or sorted(vocab.values()) != list(range(len(vocab))):
        raise ConvertError(f"'{path}' is neither a tokenizer.json nor a vocab.json whose ids are 0, 1, 2 ...")
    name = config.get("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    if name not in CLASSES:
        raise ConvertError(f"'{path}': the class {name} is unknown and there is no tokenizer.json; known are {', '.join(CLASSES)}")
    try:
        lines = bytes(map_file(side)).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise ConvertError(f"'{side}' is not UTF-8") from None
    pairs = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise ConvertError(f"'{side}' has a line that is not of two tokens")
    texts = sorted(vocab, key=vocab.get)
    v = Vocabulary("bpe", [from_letters(t) for t in texts], [NORMAL] * len(texts), merges=merge_ids(pairs, vocab))
    v.split, v.normalize = [CLASSES[name][0]], CLASSES[name][1]
    v.add_space_prefix = bool(config.get("add_prefix_space", False))
    end = vocab.get("<|endoftext|>", -1)
    if end >= 0:
        v.types[end], v.bos, v.eos = CONTROL, end, [end]
    return v


def _added(folder, v, config):
    """Tokens that only the small files know."""
    extra = {i: {"content": text} for text, i in _json(os.path.join(folder, "added_tokens.json")).items()}
    for key, value in (config.get("added_tokens_decoder") or {}).items():
        extra[int(key)] = value
    for i, value in sorted(extra.items()):
        have = len(v.tokens)
        if i < have and v.types[i] in (CONTROL, ADDED, UNKNOWN):
            continue
        if not 0 <= i < have + 100_000:
            raise ConvertError(f"'{folder}': the added token '{value.get('content')}' has the id {i}")
        grow = max(0, i + 1 - have)
        v.tokens += [b""] * grow
        v.types += [UNUSED] * grow
        if v.scores is not None:
            v.scores += [0.0] * grow
        v.tokens[i] = value["content"].encode("utf-8")
        v.types[i] = CONTROL if value.get("special") else ADDED
        if value.get("lstrip"):
            v.strip_left.append(i)
        if value.get("rstrip"):
            v.strip_right.append(i)


def _specials(folder, v, config):
    ids = {}
    for i, token in enumerate(v.tokens):
        if v.types[i] != UNUSED:
            ids.setdefault(token, i)

    def named(key):
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return ids.get(value.encode("utf-8"), -1) if isinstance(value, str) else -1

    ends = set(v.eos)
    for name in ("generation_config.json", "config.json"):
        value = _json(os.path.join(folder, name)).get("eos_token_id")
        ends |= set(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    v.bos = named("bos_token") if named("bos_token") >= 0 else v.bos
    v.pad = named("pad_token") if named("pad_token") >= 0 else v.pad
    v.eos = [*ends, named("eos_token")]
    v.add_ends()
    for i in [v.bos, *v.eos]:
        if i >= 0 and v.types[i] == NORMAL:  # vocab.json does not say which are special
            v.types[i] = CONTROL
    flag = lambda key, absent: absent if config.get(key) is None else bool(config[key])
    v.add_bos = flag("add_bos_token", v.add_bos) and v.bos >= 0
    v.add_eos = flag("add_eos_token", v.add_eos) and bool(v.eos)


def _chat(folder, config):
    """chat_template.jinja, else the template of tokenizer_config.json; of several, the one named default."""
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(path):
        return bytes(map_file(path)).decode("utf-8", "replace")
    given = config.get("chat_template") or _json(os.path.join(folder, "chat_template.json")).get("chat_template") or ""
    if isinstance(given, list):
        given = next((t["template"] for t in given if t.get("name") == "default"), "")
    return given
