# SPDX-License-Identifier: MIT
"""State dicts of PyTorch (.pt, .pth, pytorch_model*.bin), read by torch where it is installed, else by torch_zip.py.

Told apart by what they hold: llama2.c's checkpoints carry their own model_args, MNIST's flow transformer and its autoencoder are known by
their tensors; any other needs config.json beside it.
"""
import json
import os

from . import ConvertError, from_llama2c, from_mnist_flow, from_mnist_vae, torch_zip
from .assemble import Model
from .decoder import Decoder
from .stored import Stored

DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


def _load(path):
    try:
        import torch
    except ImportError:
        state = torch_zip.read(path)
        if state is None:
            raise ConvertError(f"'{path}' is of PyTorch before 1.6 and needs it to be read (pip install torch), or save it as safetensors") from None
        return state
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling fails in many ways, all of them the file's fault
        raise ConvertError(f"cannot read '{path}': {str(error).splitlines()[0]}") from None


def _tensors(path, state, skip):
    out = {}
    for name, value in state.items():
        if skip(name) or not hasattr(value, "shape"):
            continue
        if isinstance(value, Stored):
            out[name] = value
            continue
        import torch
        kind = DTYPES.get(str(value.dtype))
        if not kind:
            raise ConvertError(f"'{path}': tensor '{name}' is {value.dtype}; only {', '.join(DTYPES)} can be read")
        data = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
        out[name] = Stored(kind, tuple(value.shape), data)
    return out


def read_folder(folder, skip):
    """pytorch_model.bin or its shards."""
    index = os.path.join(folder, "pytorch_model.bin.index.json")
    files = ["pytorch_model.bin"]
    if os.path.exists(index):
        with open(index, encoding="utf-8") as file:
            files = sorted(set(json.load(file)["weight_map"].values()))
    tensors = {}
    for name in files:
        path = os.path.join(folder, os.path.basename(name))
        if not os.path.exists(path):
            raise ConvertError(f"'{folder}' has no {name}")
        tensors |= _tensors(path, _load(path), skip)
    return tensors


def _state(path):
    state = _load(path)
    if not isinstance(state, dict):
        raise ConvertError(f"'{path}' holds no state dict")
    return state


def tensors(path):
    """name -> Stored of a file that holds a state dict and nothing else."""
    return _tensors(path, _state(path), lambda name: False)


def load(path):
    state = _state(path)
    if "model_args" in state:
        return _llama2c(path, state)
    tensors = _tensors(path, state, lambda name: False)
    if from_mnist_flow.known(tensors):
        return from_mnist_flow.load(path, tensors)
    if from_mnist_vae.known(tensors):
        return from_mnist_vae.load(path, tensors)
    config = os.path.join(os.path.dirname(path), "config.json")
    if not os.path.exists(config):
        raise ConvertError(f"'{path}' needs config.json beside it, which says what the model is")
    from . import from_hf
    return from_hf.of_tensors(path, config, tensors)


def _llama2c(path, state):
    args = state["model_args"]
    tensors = _tensors(path, {name.removeprefix("_orig_mod."): t for name, t in state["model"].items()}, lambda name: False)
    gate, head, embed = (tensors.get(from_llama2c.TABLE[part].format(i=0)) for part in ("gate", "head", "embed"))
    if not gate or not embed:
        raise ConvertError(f"'{path}' lacks '{from_llama2c.TABLE['gate'].format(i=0)}' or '{from_llama2c.TABLE['embed']}'")
    heads = args["n_heads"]
    own = head is not None and bytes(head.data) != bytes(embed.data)
    d = Decoder(dim=args["dim"], layers=args["n_layers"], vocab=embed.shape[0], context=args["max_seq_len"], heads=heads,
                groups=args.get("n_kv_heads") or heads, head_size=args["dim"] // heads, ffn=gate.shape[0],
                eps=args.get("norm_eps", 1e-5), own_head=own, rope={"rope": "adjacent", "theta": 10000.0})
    return Model(path, d, from_llama2c.TABLE, tensors=tensors, ignored=r"^output\.weight$|^freqs_")
