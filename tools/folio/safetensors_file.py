# SPDX-License-Identifier: MIT
"""Safetensors, single or sharded, through maps.

    u64 n | n bytes of JSON: name -> {"dtype", "shape", "data_offsets": [begin, end] from the header's end} | data
Our own reader, because NumPy has no bf16 and we want its bytes, not its numbers.
"""
import json
import math
import os

from . import ConvertError
from .format import Cursor
from .stored import Stored, map_file

# float8.py makes weights of e4m3, from_gpt_oss.py of bytes
DTYPES = {"F32": ("f32", 4), "F16": ("f16", 2), "BF16": ("bf16", 2), "F8_E4M3": ("e4m3", 1), "U8": ("u8", 1)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read(path, skip):
    """name -> Stored. skip(name): leave it out, whatever its format."""
    data = map_file(path)
    cursor = Cursor(path, data)
    length = cursor.number("Q")
    if length > len(data) - 8:
        raise ConvertError(f"'{path}' is truncated or no safetensors file: its header claims {length} bytes of {len(data)}")
    try:
        header = json.loads(cursor.take(length))
        infos = {name: (i["dtype"], [int(n) for n in i["shape"]], *map(int, i["data_offsets"]))
                 for name, i in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConvertError(f"'{path}' has a damaged safetensors header") from None
    tensors, start = {}, 8 + length
    for name, (kind, shape, begin, end) in infos.items():
        if begin < 0 or end < begin or start + end > len(data):
            raise ConvertError(f"'{path}' is truncated: tensor '{name}' ends at byte {start + end}, the file at {len(data)}")
        if skip(name):
            continue
        if kind not in DTYPES:
            raise ConvertError(f"'{path}': tensor '{name}' is {kind}; only {', '.join(DTYPES)} can be read")
        format, size = DTYPES[kind]
        if min(shape, default=1) < 1 or math.prod(shape) * size != end - begin:
            raise ConvertError(f"'{path}': tensor '{name}' of {kind} {shape} has {end - begin} bytes of data")
        tensors[name] = Stored(format, shape or [1], data[start + begin:start + end])
    return tensors


def metadata(path):
    """The texts of the header's __metadata__; {} if there are none or the header is damaged, of which read() says more."""
    data = map_file(path)
    length = int.from_bytes(bytes(data[:8]), "little")
    try:
        found = json.loads(bytes(data[8:8 + length])) if 8 + length <= len(data) else {}
        return dict(found.get("__metadata__", {}))
    except (ValueError, TypeError, AttributeError):
        return {}


def read_folder(folder, skip):
    """The tensors of a checkpoint's folder; None if it has no safetensors."""
    single, index = os.path.join(folder, SINGLE), os.path.join(folder, INDEX)
    if os.path.exists(index):
        return _read_shards(folder, index, skip)
    if os.path.exists(single):
        return read(single, skip)
    if any(name.endswith(".safetensors") for name in os.listdir(folder)):
        raise ConvertError(f"'{folder}' has safetensors files, but neither {SINGLE} nor {INDEX}")
    return None


def _read_shards(folder, index, skip):
    try:
        with open(index, encoding="utf-8") as file:
            homes = json.load(file)["weight_map"]
        shards = sorted(set(homes.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"'{index}' is damaged: {error}") from None
    tensors = {}
    for shard in shards:
        if os.path.basename(shard) != shard:
            raise ConvertError(f"'{index}' names the shard '{shard}', which is not a file of this folder")
        for name, stored in read(os.path.join(folder, shard), skip).items():
            if homes.get(name, shard) == shard:
                tensors[name] = stored
    for name, shard in homes.items():
        if name not in tensors and not skip(name):
            raise ConvertError(f"'{os.path.join(folder, shard)}' has no tensor '{name}', which {INDEX} says it holds")
    return tensors
