#!/usr/bin/env python3
"""Holds every compiled kernel to tests/cuda/kernels.txt: registers, stack, accesses to local memory (spills), shared memory, blocks that
fit on a multiprocessor, instructions that it must have. A line of the table is for one target and all kernels that its pattern names (the
first line that fits counts); its numbers are the most, for blocks the least, that one of them may have.

It fails for a kernel that is beyond a limit, that no line names or that no op case launches (tests/sim/test_cuda_ops.cpp), for a required
instruction that is missing, and for a line without a kernel. First it makes sure that it still reads machine code rightly, from the
one-instruction kernels of micro.cu. Under another release of nvcc than the table's, numbers beyond their limits are only shown, and the
exit code is 77. How it judges is tested in test_gate.py.

    gate.py --library libfolio_cuda.a --micro micro.o --launches FILE [--table kernels.txt] [--write]

--write puts today's numbers into the table, keeping its patterns and requirements; kernels that no line names get one for their family.
"""
import argparse
import fnmatch
import os
import sys
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cubin  # noqa: E402

COLUMNS = ("registers", "stack", "local", "static", "dynamic", "blocks")
# Bytes of shared memory of a multiprocessor; of a block at most. The rest is alike: 65,536 registers, 64 warps, 32 blocks.
SHARED = {80: (167936, 166912), 90: (233472, 232448)}   # A100, H200
# cuda/limits.cu: loops that do nothing but measure the card; no op launches them.
YARDSTICKS = ("mma_loop<*", "wgmma_loop<*", "fma_loop", "copy_all", "read_all", "fill_all")
RESERVED = 1024                                         # bytes of shared memory that the system takes for each block


@dataclass
class Line:
    target: int
    pattern: str
    limits: dict
    needs: list

    def names(self, kernel):
        return self.target == kernel.target and fnmatch.fnmatchcase(kernel.name, self.pattern)


def line_of(kernel, lines):
    return next((line for line in lines if line.names(kernel)), None)


def title(target, name):
    return f"{'sm_90a' if target == 90 else f'sm_{target}'} {name}"


def blocks_per_multiprocessor(target, registers, threads, shared):
    """As cuda_occupancy.h has it: registers go to warps by 256, from one of four files; shared memory to blocks by 128 bytes."""
    most, most_of_block = SHARED[target]
    if shared > most_of_block:
        return 0
    warps = (threads + 31) // 32
    of_warp = (registers * 32 + 255) // 256 * 256
    return min(64 // warps, 32, 16384 // of_warp * 4 // warps, most // ((shared + RESERVED + 127) // 128 * 128))


def measure(kernel, launches):
    """The columns of a kernel that is launched."""
    threads, dynamic = launches[kernel.name]
    blocks = blocks_per_multiprocessor(kernel.target, kernel.registers, threads, kernel.static + dynamic)
    return dict(zip(COLUMNS, (kernel.registers, kernel.stack, kernel.local, kernel.static, dynamic, blocks)))


def judge(kernels, launches, lines):
    """(complaints, those about numbers), a sentence each"""
    wrong, beyond, used = [], [], set()
    for kernel in kernels:
        who, line = title(kernel.target, kernel.name), line_of(kernel, lines)
        if line is None:
            wrong.append(f"{who}: no line of the table names it")
            continue
        used.add(id(line))
        wrong += [f"{who}: no {need}, which the table asks for" for need in line.needs if not kernel.code[need]]
        if kernel.name not in launches:
            wrong.append(f"{who}: no op case launches it (tests/ops)")
            continue
        for column, number in measure(kernel, launches).items():
            limit = line.limits[column]
            if number < limit if column == "blocks" else number > limit:
                beyond.append(f"{who}: {column} {number}, the table has {limit}")
    wrong += [f"{title(line.target, line.pattern)}: no kernel of that name" for line in lines if id(line) not in used]
    return wrong, beyond


def renewed(kernels, launches, lines):
    """The table as it should be for these kernels."""
    lines = list(lines)
    for kernel in kernels:
        if line_of(kernel, lines) is None:
            family, arguments, _ = kernel.name.partition("<")
            lines.append(Line(kernel.target, family + ("<*>" if arguments else ""), {}, []))
    table = []
    for line in lines:
        numbers = [measure(k, launches) for k in kernels if line_of(k, lines) is line and k.name in launches]
        if numbers:
            limits = {c: (min if c == "blocks" else max)(n[c] for n in numbers) for c in COLUMNS}
            limits["registers"] = (limits["registers"] + 7) // 8 * 8   # as the chip hands them out
            table.append(Line(line.target, line.pattern, limits, line.needs))
    return table


def misread(kernels):
    """What is not found in micro.cu's kernels, each named for an instruction that it must have; in no other width."""
    wrong = []
    for kernel in kernels:
        name = kernel.name.replace("_", ".")
        others = [n for n in kernel.code if "." in name and n.startswith(name.partition(".")[0] + ".") and n != name]
        if kernel.name == "nothing":
            others = [n for n in kernel.code if n != "all"]
        elif not kernel.code[name]:
            wrong.append(f"micro.cu: {title(kernel.target, kernel.name)} seems to have no {name}")
        wrong += [f"micro.cu: {title(kernel.target, kernel.name)} seems to have {n}" for n in others]
    return wrong


def read_table(path):
    """(release of nvcc, comment lines, Lines)"""
    release, comments, lines = "", [], []
    with open(path) as file:
        for number, text in enumerate(file, 1):
            words = text.split()
            if text.startswith("#") or not words:
                comments.append(text)
            elif words[0] == "nvcc":
                release = words[1]
            elif len(words) < 2 + len(COLUMNS) or not words[0].startswith("sm_"):
                sys.exit(f"{path}:{number}: a line is: target kernels {' '.join(COLUMNS)} instructions...")
            else:
                lines.append(Line(int(words[0][3:5]), words[1], dict(zip(COLUMNS, map(int, words[2:8]))), words[8:]))
    return release, comments, lines


def write_table(path, release, comments, lines):
    names = [title(line.target, line.pattern) for line in lines]
    wide = max(map(len, names), default=0)
    with open(path, "w") as file:
        file.write("".join(comments) + f"nvcc {release}\n")
        for name, line in zip(names, lines):
            file.write(f"{name:{wide}} {' '.join(f'{line.limits[c]:6d}' for c in COLUMNS)}  {' '.join(line.needs)}".rstrip() + "\n")


def read_launches(path):
    """{kernel: (threads, bytes of dynamic shared memory)}, the most of each"""
    found = {}
    with open(path) as file:
        for text in file:
            threads, shared, name = text.split(" ", 2)
            found[cubin.short_name(name.strip())] = (int(threads), int(shared))
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--library", required=True, help="what holds the compiled kernels")
    options.add_argument("--micro", required=True, help="the object of micro.cu")
    options.add_argument("--launches", required=True, help="what FOLIO_LAUNCHES of test_cuda_ops has written")
    options.add_argument("--table", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels.txt"))
    options.add_argument("--write", action="store_true")
    options = options.parse_args()
    launches = read_launches(options.launches)
    release, comments, lines = read_table(options.table)
    used = cubin.compiler(options.micro)
    kernels = [k for k in cubin.kernels(options.library) if k.code["all"] > 4]   # others are empty on this target: of the other tier
    kernels = [k for k in kernels if not any(fnmatch.fnmatchcase(k.name, y) for y in YARDSTICKS)]
    if options.write:
        return write_table(options.table, used, comments, renewed(kernels, launches, lines))
    wrong, beyond = judge(kernels, launches, lines)
    wrong += misread(cubin.kernels(options.micro))
    print("\n".join(wrong + beyond + [f"{len(kernels)} kernels, {len(wrong) + len(beyond)} complaints"]))
    if wrong or (beyond and used == release):
        sys.exit(1)
    if beyond:
        print(f"SKIPPED: this is nvcc {used}, the table was made with {release}, so its numbers are no limits")
        sys.exit(77)


if __name__ == "__main__":
    main()
