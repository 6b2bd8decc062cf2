# SPDX-License-Identifier: MIT
"""State dicts of PyTorch without PyTorch: the zip archives that torch.save has written since 1.6.

    NAME/data.pkl     a pickle whose tensors refer to storages by number
    NAME/data/N       the bytes of storage N, not compressed, little endian
A pickle can call anything; this one may call nothing but what rebuilds tensors and ordered dictionaries, and gets our own functions for
those. What is not plain numbers (a scheduler, a class of the training script) is refused by name.
"""
import math
import pickle
import struct
import zipfile
from collections import OrderedDict

from . import ConvertError
from .quant import FORMATS
from .stored import Stored, map_file

STORAGES = {"FloatStorage": "f32", "HalfStorage": "f16", "BFloat16Storage": "bf16", "ByteStorage": "u8", "IntStorage": "i32"}


class Unknown:
    """A number format that no tensor of a model has; it only matters if somebody asks for such a tensor."""

    def __init__(self, name):
        self.name = name


def _tensor(storage, offset, size, stride, *_):
    kind, data = storage
    if isinstance(kind, Unknown):
        return kind
    step, expected = FORMATS[kind][1], 1
    for n, s in zip(reversed(size), reversed(stride)):
        if n != 1 and s != expected:
            raise pickle.UnpicklingError("a tensor that is not contiguous")
        expected *= n
    count = math.prod(size) * step
    if offset < 0 or min(size, default=1) < 1 or offset * step + count > len(data):
        raise pickle.UnpicklingError(f"a tensor of {list(size)} that ends behind its storage")
    return Stored(kind, tuple(size) or (1,), data[offset * step:offset * step + count])


class _Reader(pickle.Unpickler):
    allowed = {("torch._utils", "_rebuild_tensor_v2"): _tensor, ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
               ("collections", "OrderedDict"): OrderedDict}

    def __init__(self, path, file, archive, prefix, data):
        super().__init__(file)
        self.path, self.archive, self.prefix, self.data = path, archive, prefix, data

    def find_class(self, module, name):
        if module == "torch" and name.endswith("Storage"):
            return STORAGES.get(name) or Unknown(name)
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no state dict needs")
        return self.allowed[module, name]

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to something that is no storage")
        _, kind, key, _, numel = pid
        info = self.archive.getinfo(f"{self.prefix}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"storage {key} is compressed")
        head = bytes(self.data[info.header_offset:info.header_offset + 30])
        begin = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        data = self.data[begin:begin + info.file_size]
        if not isinstance(kind, Unknown) and numel * FORMATS[kind][1] > len(data):
            raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes for {numel} numbers")
        return kind, data


def read(path):
    """What torch.load would give, with Stored for tensors. None if the file is no such archive."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if inside is None:
                return None
            with archive.open(inside) as file:
                return _Reader(path, file, archive, inside[:-len("data.pkl")], map_file(path)).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ValueError, TypeError, IndexError, AttributeError, EOFError, struct.error,
            ImportError, OverflowError, MemoryError, RecursionError, NotImplementedError, OSError) as error:
        raise ConvertError(f"cannot read '{path}': {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
