#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts together what tools/gpu_check.sh has left in a folder: report.json with everything, report.md for people.

    python tools/gpu_report.py gpu_report/

Reads facts.tsv (key, value), parts.tsv (name, status, seconds, limit, reason, command) and the JSON files of the parts;
what is missing or broken is left out of the tables, and parts.tsv says why. Ratios are PyTorch's time over ours: above 1
we are faster.
"""
import json
import sys
from pathlib import Path

TIERS = ("portable", "hopper")


def read_rows(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def gather(folder):
    keys = ("name", "status", "seconds", "limit", "reason", "command")
    report = dict(read_rows(folder / "facts.tsv"))
    report["parts"] = [dict(zip(keys, row)) for row in read_rows(folder / "parts.tsv")]
    for part in report["parts"]:
        part["seconds"], part["limit"] = int(part["seconds"]), int(part["limit"])
    report["op_check"] = {tier: found for tier in TIERS if (found := read_json(folder / f"op_check_{tier}.json"))}
    report["ops"] = {tier: found for tier in TIERS if (found := read_json(folder / f"ops_{tier}.json"))}
    report["models"] = read_json(folder / "models.json") or []
    report["bench_models"] = []
    for path in sorted(folder.glob("bench_*.json")):
        found = read_json(path)
        report["bench_models"] += found if isinstance(found, list) else [found] if found else []
    report["torch"] = read_json(folder / "torch.json")
    return report


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]


def microseconds(seconds):
    return f"{seconds * 1e6:.1f}"


def part_table(report):
    rows = [(part["name"], part["status"], part["seconds"], part["reason"]) for part in report["parts"]]
    return ["## Parts", ""] + table(("part", "outcome", "s", "why"), rows)


def check_tables(report):
    lines = []
    for tier, found in report["op_check"].items():
        lines += [f"## Ops against the reference, {tier} tier: {found['cases']} cases, {found['failed']} wrong", ""]
        lines += table(("op", "cases", "wrong", "worst error, of what is allowed"),
                       [(op, o["cases"], o["failed"], o["worst"] if isinstance(o["worst"], str) else f"{o['worst']:.3g}")
                        for op, o in found["ops"].items()])
        lines += [f"- WRONG: {failure['case']}: {failure['wrong']}" for failure in found["failures"][:20]]
    if report["models"]:
        lines += ["## Whole models, card against CPU", ""]
        lines += table(("model", "", "greedy text", "nodes"),
                       [(Path(m["model"]).name, "ok" if m["good"] else "WRONG", m["text"], m["nodes"]) for m in report["models"]])
    return lines


def best_of_torch(report):
    """case -> (seconds, who) of PyTorch's fastest way."""
    best = {}
    for row in (report["torch"] or {}).get("cases", []):
        if "seconds" in row and row["seconds"] < best.get(row["case"], (1e9, ""))[0]:
            best[row["case"]] = (row["seconds"], row["who"])
    return best


def ops_table(report):
    """One row a case: each tier's time and share of its limit, PyTorch's best, and the ratio to our better tier."""
    tiers, theirs = list(report["ops"]), best_of_torch(report)
    if not tiers:
        return []
    by_name = {tier: {c["case"]: c for c in report["ops"][tier]["cases"]} for tier in tiers}
    rows = []
    for name in dict.fromkeys(name for tier in tiers for name in by_name[tier]):
        mine = [by_name[tier].get(name, {}) for tier in tiers]
        seconds = [c["seconds"] for c in mine if "seconds" in c]
        cells = [name]
        for c in mine:
            cells += [microseconds(c["seconds"]), f"{c['share']:.2f} of {c['limit']}"] if "seconds" in c else [c.get("left_out", "-"), "-"]
        torch_seconds, who = theirs.get(name, (0, "-"))
        cells += [microseconds(torch_seconds) if torch_seconds else "-", who]
        cells.append(f"{torch_seconds / min(seconds):.2f}" if torch_seconds and seconds else "-")
        rows.append(cells)
    limits = report["ops"][tiers[0]]["limits"]
    units = {"gbps": "GB/s", "gflops": "GFLOP/s", "gops": "GOP/s"}
    said = ", ".join(f"{what} {value:,.0f} {units[unit]}" for key, value in limits.items() for what, unit in [key.split("_")])
    head = ["case"] + [column for tier in tiers for column in (f"{tier} us", "share of limit")] + ["PyTorch us", "by", "PyTorch / ours"]
    return ["## Single ops beside PyTorch", "", f"Limits, measured in the same run: {said}.", ""] + table(head, rows)


def models_table(report):
    theirs = {(m["shape"], m["type"]): m for m in (report["torch"] or {}).get("models", [])}
    rows = []
    for m in report["bench_models"]:
        eager = theirs.get((m["shape"], m["type"]), {})
        beside = [f"{eager[key]:.0f}, {m[key] / eager[key]:.2f}×" if eager.get(key) else "-" for key in ("prefill_tps", "decode_tps")]
        memory = f"{m['memory_bytes'] / 1e9:.2f}" + (f" ({eager['memory_bytes'] / 1e9:.2f})" if eager.get("memory_bytes") else "")
        rows.append([m["shape"], m["type"], f"{m['prefill_tps']:.0f}", f"{m['prefill_compute_share']:.2f} of {m['prefill_unit']}",
                     f"{m['decode_tps']:.1f}", f"{m['decode_bandwidth_share']:.2f}", f"{m['decode_deep_tps']:.1f}",
                     f"{m['decode_deep_bandwidth_share']:.2f}", f"{max(m['sequences_tps'].values()):.0f}", memory, *beside])
    if not rows:
        return []
    head = ("shape", "type", "prefill t/s", "share of peak", "decode t/s", "share of bandwidth", "deep decode t/s", "share of bandwidth",
            "most sequences t/s", "GB (PyTorch's)", "PyTorch eager prefill t/s, ours ×", "decode t/s, ours ×")
    return ["## Whole models", ""] + table(head, rows)


def markdown(report):
    lines = [f"# GPU check of {report.get('commit', 'unknown')[:19]}, {report.get('date', '')}", ""]
    facts = [(key, value) for key, value in report.items() if isinstance(value, str)]
    if report["torch"]:
        facts.append(("PyTorch", f"{report['torch']['torch']}, cuDNN {report['torch']['cudnn']}"))
    lines += table(("what", ""), facts)
    return "\n".join(lines + part_table(report) + check_tables(report) + ops_table(report) + models_table(report))


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("gpu_report: expected the folder that tools/gpu_check.sh has written", file=sys.stderr)
        return 1
    folder = Path(sys.argv[1])
    report = gather(folder)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
