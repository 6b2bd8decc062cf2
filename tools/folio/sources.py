# SPDX-License-Identifier: MIT
"""Which reader takes a source: told from the first bytes, then from the name. And the same for --tokenizer."""
import os

from . import ConvertError, from_gguf, from_llama2c, from_mingpt, gguf_file, vocabulary_gguf, vocabulary_llama2c
from .format import MAGIC
from .stored import map_file


def stem(path):
    name = os.path.basename(os.path.abspath(path))
    return name if os.path.isdir(path) else os.path.splitext(name)[0]


def is_folio(path):
    return os.path.isfile(path) and os.path.getsize(path) > 8 and bytes(map_file(path)[:8]) == MAGIC


def load(path, tokenizer=None, further=None, rule=None, name=None):
    """The Model of a source, with the vocabulary of --tokenizer if there is one. further: a second file; rule: --vae's."""
    model = _load(path, further, rule, name or stem(path))
    if not getattr(model.decoder, "text", True) and tokenizer:
        raise ConvertError(f"'{path}' is an autoencoder and takes no --tokenizer")
    if tokenizer:
        model.vocabulary, chat = load_tokenizer(tokenizer, model.decoder.vocab if model.decoder else None)
        model.chat = chat or model.chat
        if model.metadata.pop("source.gguf", None):
            model.notes.append("with another tokenizer this file cannot go back to GGUF")
    return model


def _vae(path, further, rule, name):
    """The Model of an autoencoder's file, folder or pair of files; None if it is nothing of the kind."""
    from . import from_vae
    if further or rule:
        paths = [path] + ([further] if further else [])
        for each in paths:
            if not each.endswith((".pt", ".pth", ".safetensors")):
                raise ConvertError(f"'{each}' is neither .safetensors nor .pth, as the files of an autoencoder are")
        return from_vae.load(paths, rule, name)
    if os.path.isdir(path):
        files = from_vae.files_of(path)
    else:
        files = [path] if path.endswith((".pt", ".pth", ".safetensors")) else []
    if not files or not all(from_vae.known(from_vae.read(each)) for each in files):
        return None
    return from_vae.load(files, rule, name)


def _load(path, further, rule, name):
    if vae := _vae(path, further, rule, name):
        return vae
    if os.path.isdir(path):
        from . import from_hf
        return from_hf.load(path)
    data = map_file(path)
    if bytes(data[:4]) == gguf_file.MAGIC:
        return from_gguf.load(path)
    if path.endswith((".pt", ".pth")):
        from . import from_torch
        return from_torch.load(path)
    if path.endswith(".safetensors"):
        from . import from_video
        if from_video.is_video(path):
            return from_video.load(path, name)
        raise ConvertError(f"'{path}' is one file of a checkpoint; give the folder, which also holds config.json")
    if bytes(data[:64]).lstrip()[:1] == b"{":
        return from_mingpt.load(path, from_mingpt.parse(path, data))
    if vocabulary_llama2c.is_tokenizer(data):
        raise ConvertError(f"'{path}' is a llama2.c tokenizer; give it with --tokenizer, beside the model")
    if from_llama2c.is_llama2c(path, data):
        return from_llama2c.load(path)
    raise ConvertError(f"'{path}' is of no known kind: neither GGUF, llama2.c, minGPT JSON, a Hugging Face folder nor a .folio")


def load_tokenizer(path, vocab):
    """(Vocabulary, chat template) of a file or folder."""
    if os.path.isdir(path):
        from . import vocabulary_hf
        found = vocabulary_hf.load(path)
        if not found[0]:
            raise ConvertError(f"'{path}' holds no tokenizer.json, tokenizer.model or vocab.json with merges.txt")
        return found
    data = map_file(path)
    if bytes(data[:4]) == gguf_file.MAGIC:
        file = gguf_file.read(path)
        vocabulary = vocabulary_gguf.load(file)
        if not vocabulary:
            raise ConvertError(f"'{path}' holds no tokenizer")
        return vocabulary, file.get("tokenizer.chat_template", "")
    if vocabulary_llama2c.is_tokenizer(data):
        return vocabulary_llama2c.load(path, vocab), ""
    from . import vocabulary_hf
    return vocabulary_hf.load_file(path, data)
