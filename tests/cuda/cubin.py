"""What compiled CUDA kernels are made of, read from the machine code that nvcc puts into objects and libraries: no disassembler needed.

An object holds fat binaries (magic 0xba55ed50), these hold an ELF for each target. In an ELF a kernel K has .text.K, its code;
.nv.info, a list of attributes, for registers and stack; .nv.shared.K, static shared memory. Code is words of 16 bytes: the opcode in the
low 9 bits, the width of a memory access in bits 73 to 75. The numbers were found with tests/cuda/micro.cu, kernels of one instruction each,
and are checked against it whenever gate.py runs; registers, stack and shared memory agree with `ptxas -v`.
"""
import re
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass

OPCODES = {
    0x023: "FFMA", 0x026: "IDP", 0x02b: "DFMA", 0x037: "IMMA", 0x03b: "LDSM", 0x03c: "HMMA", 0x108: "MUFU", 0x11d: "BAR", 0x181: "LDG",
    0x183: "LDL", 0x184: "LDS", 0x186: "STG", 0x187: "STL", 0x188: "STS", 0x189: "SHFL", 0x18e: "RED", 0x1a6: "RED", 0x1a7: "SYNCS",
    0x1a8: "ATOMG", 0x1ae: "LDGSTS", 0x1b2: "SYNCS", 0x1b4: "UTMALDG", 0x1b5: "UTMASTG", 0x1ba: "UBLKCP", 0x1f0: "HGMMA"}
NOP = 0x118
WITH_WIDTH = {"LDG", "STG", "LDS", "STS", "LDGSTS"}
WIDTHS = {0: ".8", 2: ".16", 4: ".32", 5: ".64", 6: ".128"}
REGISTERS, FRAME = 0x2f, 0x11   # attributes of .nv.info


@dataclass
class Kernel:
    target: int            # 80, 90
    name: str              # as people write it: few_plain<WeightsF16,1,false,true>
    registers: int
    stack: int             # bytes of a thread
    static: int            # bytes of shared memory
    code: Counter          # instructions by name, those of memory with their width: LDG.128; "all" counts every one but NOP

    @property
    def local(self):       # accesses to local memory: spilled registers, arrays without a register
        return self.code["LDL"] + self.code["STL"]


def short_name(name):
    """A kernel's name without namespaces, return type, parameters and spaces."""
    for space in ("(anonymous namespace)::", "{anonymous}::"):
        name = name.replace(space, "")
    depth, end, start = 0, len(name), 0
    for i, c in enumerate(name):
        if c == "<":
            depth += 1
        elif c == ">":
            depth -= 1
        elif depth == 0 and c == "(":
            end = i
            break
        elif depth == 0 and c == " ":
            start = i + 1
    name = re.sub(r"\b[a-z_]\w*::", "", name[start:end])
    return name.replace(" ", "")


def fat_binaries(data):
    """The ELFs of a file's fat binaries."""
    magic, at = struct.pack("<IH", 0xba55ed50, 1), 0
    while (at := data.find(magic, at)) >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        at += header
        end = at + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            elf = data[at + header:at + header + size]
            if kind == 2:  # machine code; 1 is PTX
                if not elf.startswith(b"\x7fELF"):
                    raise SystemExit("cubin.py: compressed machine code: tell nvcc --no-compress")
                yield elf
            at += header + size


def sections(elf):
    """{name: (size, bytes)}"""
    offset, = struct.unpack_from("<Q", elf, 0x28)
    step, count, names = struct.unpack_from("<HHH", elf, 0x3a)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * step) for i in range(count)]
    strings = elf[headers[names][4]:][:headers[names][5]]
    return {text_at(strings, h[0]): (h[5], b"" if h[1] == 8 else elf[h[4]:h[4] + h[5]]) for h in headers}


def text_at(strings, at):
    return strings[at:strings.index(b"\0", at)].decode()


def attributes(parts):
    """{(attribute, symbol): number} of .nv.info"""
    symbols, strings, info = parts[".symtab"][1], parts[".strtab"][1], parts[".nv.info"][1]
    found, at = {}, 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != 4:      # the other forms have their value in place of the size
            continue
        if size == 8:
            symbol, number = struct.unpack_from("<II", info, at)
            found[attribute, text_at(strings, struct.unpack_from("<I", symbols, 24 * symbol)[0])] = number
        at += size
    return found


def instructions(code):
    count = Counter()
    for at in range(0, len(code) - 15, 16):
        low, high = struct.unpack_from("<QQ", code, at)
        opcode = low & 0x1ff
        if low >> 12 & 15 == 15 or opcode == NOP:  # the first: predicated never to run
            continue
        count["all"] += 1
        if name := OPCODES.get(opcode):
            count[name + (WIDTHS.get(high >> 9 & 7, ".?") if name in WITH_WIDTH else "")] += 1
    return count


def kernels(path):
    """The kernels of an object, a library or a program, for each target."""
    found, names = [], []
    with open(path, "rb") as file:
        data = file.read()
    for elf in fat_binaries(data):
        target = struct.unpack_from("<I", elf, 0x30)[0] >> 8 & 0xff
        parts = sections(elf)
        known = attributes(parts)
        for section, (_, code) in parts.items():
            if not section.startswith(".text."):
                continue
            name = section[len(".text."):]
            static = parts.get(".nv.shared." + name, (0, b""))[0]
            if target >= 90 and static:
                static -= 1024   # the system's, which every block has on every chip
            names.append(name)
            found.append(Kernel(target, name, known[REGISTERS, name], known.get((FRAME, name), 0), static, instructions(code)))
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout.split("\n")
    for kernel, name in zip(found, plain):
        kernel.name = short_name(name)
    return found


def compiler(path):
    """Which release of the CUDA tools made the code, as '13.0'."""
    with open(path, "rb") as file:
        found = re.search(rb"Cuda compilation tools, release (\d+\.\d+)", file.read())
    return found[1].decode() if found else "unknown"
