#!/usr/bin/env python3
"""gate.py must find what is planted: on made-up kernels, without nvcc."""
import copy
import os
import sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cubin  # noqa: E402
import gate  # noqa: E402

KERNELS = [
    cubin.Kernel(80, "norm<4>", 30, 0, 256, Counter({"all": 100, "LDG.128": 2})),
    cubin.Kernel(80, "norm<1>", 40, 0, 0, Counter({"all": 90, "LDG.32": 2})),
    cubin.Kernel(80, "product<Wide,true>", 128, 0, 0, Counter({"all": 900, "HMMA": 64, "LDGSTS.128": 4})),
    cubin.Kernel(90, "product<Wide,true>", 126, 32, 0, Counter({"all": 900, "HGMMA": 8, "STL": 3, "LDL": 4}))]
LAUNCHES = {"norm<4>": (256, 0), "norm<1>": (1024, 0), "product<Wide,true>": (256, 92160)}


def expect(got, want, what):
    if got != want:
        sys.exit(f"test_gate.py: {what}: {got}, not {want}")


def complaints(kernels, launches, lines):
    wrong, beyond = gate.judge(kernels, launches, lines)
    return wrong + beyond


def test_names():
    for long, short in (
            ("void folio::(anonymous namespace)::each<folio::(anonymous namespace)::Sum, 4, float>(Sum, Rows, long)", "each<Sum,4,float>"),
            ("folio::{anonymous}::each<folio::{anonymous}::Sum, 4, float>", "each<Sum,4,float>"),
            ("void folio::attention::attend<folio::attention::Shape<folio::bf16, 64, 4> >(folio::Args)", "attend<Shape<bf16,64,4>>"),
            ("void folio::act<(folio::Act)3, true>(float const*)", "act<(Act)3,true>"),
            ("folio::attention::make_plan(folio::attention::Args)", "make_plan")):
        expect(cubin.short_name(long), short, long)


def test_blocks():   # by cuda_occupancy.h
    for target, registers, threads, shared, blocks in (
            (90, 128, 256, 92160, 2), (80, 128, 256, 92160, 1), (80, 33, 1024, 0, 1), (90, 32, 256, 1024, 8), (90, 255, 256, 0, 1),
            (80, 24, 32, 0, 32), (80, 24, 32, 166913, 0), (90, 24, 32, 166913, 1), (90, 200, 384, 0, 0)):
        expect(gate.blocks_per_multiprocessor(target, registers, threads, shared), blocks, (target, registers, threads, shared))


def test_judgement():
    lines = gate.renewed(KERNELS, LAUNCHES, [])
    expect([line.pattern for line in lines], ["norm<*>", "product<*>", "product<*>"], "families")
    expect(complaints(KERNELS, LAUNCHES, lines), [], "a table made of these kernels")
    expect(lines[0].limits, dict(zip(gate.COLUMNS, (40, 0, 0, 256, 0, 1))), "limits of a family")
    lines = gate.renewed(KERNELS, LAUNCHES, [gate.Line(80, "norm<4>", {}, ["LDG.128"])])
    expect(complaints(KERNELS, LAUNCHES, lines), [], "with a line of its own for one of them")
    for i, line in enumerate(lines):
        for column in gate.COLUMNS:
            planted = copy.deepcopy(lines)
            planted[i].limits[column] += 1 if column == "blocks" else -8 if column == "registers" else -1
            found = complaints(KERNELS, LAUNCHES, planted)
            expect([line.pattern.split("<")[0] in f and column in f for f in found], [True], f"{column} of {line.pattern}")
        planted = copy.deepcopy(lines)
        planted[i].needs.append("UTMALDG")
        expect(["no UTMALDG" in f for f in complaints(KERNELS, LAUNCHES, planted)],
               [True] * sum(gate.line_of(k, lines) is line for k in KERNELS), f"an instruction of {line.pattern}")
    expect(len(complaints(KERNELS, LAUNCHES, lines[:2])), 2, "kernels without a line")
    found = complaints(KERNELS, LAUNCHES, lines + [gate.Line(90, "norm<*>", {}, [])])
    expect(found, ["sm_90a norm<*>: no kernel of that name"], "a line too many")
    found = complaints(KERNELS, {k: v for k, v in LAUNCHES.items() if k != "norm<1>"}, lines)
    expect(found, ["sm_80 norm<1>: no op case launches it (tests/ops)"], "a kernel that is not launched")


def test_decoding():
    micro = [cubin.Kernel(80, "LDG_128", 8, 0, 0, Counter({"all": 9, "LDG.128": 1, "STG.32": 1})),
             cubin.Kernel(80, "nothing", 8, 0, 0, Counter({"all": 2}))]
    expect(gate.misread(micro), [], "rightly read")
    micro[0].code["LDG.32"] = 1
    micro[1].code["HMMA"] = 1
    expect(len(gate.misread(micro)), 2, "wrongly read")
    micro[0].code = Counter({"all": 9})
    expect(gate.misread(micro)[0], "micro.cu: sm_80 LDG_128 seems to have no LDG.128", "not read")


for test in (test_names, test_blocks, test_judgement, test_decoding):
    test()
print("test_gate.py: all found")
