# SPDX-License-Identifier: MIT
"""tools/gpu_check.sh without a card: a PATH of fakes that answer as nvidia-smi, nvcc and CMake do, and a "build" that leaves
fake programs. What is tested is the script's own business: the order of its parts, timeouts, excuses, exit codes, and the form
of its reports. Then the Python beside it."""
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
SCRIPT = ROOT / "tools" / "gpu_check.sh"
TOOLS = ("bash", "env", "git", "timeout", "grep", "tail", "head", "date", "nproc", "uname", "mkdir", "rm", "dirname", "cat", "sleep",
         "cp", "chmod")

SMI = """case "$*" in
  *query-gpu=name*) echo 'Some Card' ;;
  *query-gpu=compute_cap*) echo "${FAKE_CAPABILITY:-9.0}" ;;
  *query-gpu=memory.total*) echo "${FAKE_MEMORY:-81920}" ;;
  *query-gpu=driver_version*) echo 570.1 ;;
  *) echo 'a table' ;;
esac"""
CMAKE = """[ "$1" = --build ] || exit 0
[ -z "${FAKE_BUILD_FAILS:-}" ] || { echo 'x.cu(3): error: identifier "foo" is undefined'; echo 'make: *** [all] Error 2'; exit 2; }
mkdir -p "$2/bin" && cp "$FAKES"/programs/* "$2/bin/"
"""
LIMITS = {"read_gbps": 4000.0, "copy_gbps": 3900.0, "fp32_gflops": 50000.0, "f16_gflops": 7e5, "bf16_gflops": 7e5, "int8_gops": 1.4e6}
CASES = [{"case": "matmul bf16 T=1 4096->14336", "op": "matmul", "type": "bf16", "tokens": 1, "inputs": 16, "features": 8, "flops": 1.0,
          "bytes": 1.0, "seconds": 4e-5, "gbps": 2900.0, "gflops": 1.0, "share": 0.72, "limit": "bandwidth"},
         {"case": "attend f16 D=64 decode 1 x 131072", "op": "attend", "type": "f16", "tokens": 1, "depth": 8, "sequences": 1, "heads": 2,
          "groups": 1, "head_size": 8, "left_out": "out of memory"}]
MODEL = {"shape": "gpt2", "type": "f32", "device": "cuda:0", "prefill_unit": "fp32", "weight_bytes": 5e8, "memory_bytes": 6e8,
         "prompt": 512,
         "depth": 4096, "prefill_tps": 1000.0, "prefill_compute_share": 0.5, "decode_tps": 300.0, "decode_bandwidth_share": 0.8,
         "decode_deep_tps": 200.0, "decode_deep_bandwidth_share": 0.7, "limits": LIMITS, "sequences_tps": {"8": 900.0},
         "drafted_tps": {"8": 800.0}}
OP_CHECK = {"device": "cuda:0", "seed": 1, "cases": 2, "failed": 0, "left_out": 0, "stopped": "",
            "ops": {"Matmul": {"cases": 2, "failed": 0, "worst": 0.25}}, "failures": []}
ANSWER = {"tokens": [5, 6], "logprobs": [{"top": [{"token": 5, "logprob": -0.1}, {"token": 6, "logprob": -3.0}]},
                                         {"top": [{"token": 6, "logprob": -0.7}, {"token": 7, "logprob": -0.71}]}]}
PROGRAMS = {
    "conform": 'echo "0 wrong"; exit "${FAKE_CONFORM:-0}"',
    "op_check": f"""[ -z "${{FAKE_OP_CHECK_SLEEPS:-}}" ] || {{ echo 'ok one case'; sleep 60; }}
while [ $# -gt 0 ]; do [ "$1" = --json ] && echo '{json.dumps(OP_CHECK)}' >"$2"; shift; done
echo "tier $FOLIO_CUDA_TIER"; exit "${{FAKE_OP_CHECK:-0}}" """,
    "generate": f"""case "$*" in *--against*) echo 'cuda:0 agrees with cpu' ;; *) echo '{json.dumps(ANSWER)}' ;; esac""",
    "bench": f"""case "$*" in
  *--list*) echo '{json.dumps({"cases": CASES[:1]})}' ;;
  ops*) echo '{json.dumps({"device": "cuda:0", "limits": LIMITS, "cases": CASES})}' ;;
  *) echo '{json.dumps(MODEL)}' ;;
esac""",
}


def script(path, text):
    path.write_text("#!/bin/sh\n" + text + "\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fakes(tmp_path):
    """A folder that is all of the PATH: links to real tools, and fakes of what a GPU machine has."""
    folder = tmp_path / "fakes"
    (folder / "programs").mkdir(parents=True)
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    script(folder / "python3", f'exec "{sys.executable}" "$@"')
    script(folder / "nvidia-smi", SMI)
    script(folder / "awk", "echo 64000")   # MiB that this machine has
    script(folder / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    script(folder / "cmake", CMAKE)
    script(folder / "compute-sanitizer", "echo \"${FAKE_SANITIZER:-no errors}\"; [ -z \"${FAKE_SANITIZER:-}\" ]")
    script(folder / "torch-python", 'case "$1" in *gpu_torch.py) echo "gpu_torch: no PyTorch here: none"; exit 77 ;; esac')
    for name, text in PROGRAMS.items():
        script(folder / "programs" / name, text)
    return folder


@pytest.fixture
def run(fakes, tmp_path):
    def call(*flags, **environment):
        variables = {"PATH": str(fakes), "FAKES": str(fakes), "HOME": str(tmp_path), "FOLIO_PYTHON": str(fakes / "torch-python"),
                     "CUDA_HOME": str(tmp_path)}
        ran = subprocess.run([SCRIPT, "--build", tmp_path / "build", *flags, tmp_path / "out"], env=variables | environment,
                             capture_output=True, text=True, timeout=120)
        report = tmp_path / "out" / "report.json"
        return ran, json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    return call


def outcomes(report):
    return {part["name"]: part["status"] for part in report["parts"]}


IN_ORDER = ["machine", "configure", "build", "conform", "op_check_portable", "op_check_hopper", "models", "memcheck", "racecheck",
            "bench_ops_portable", "bench_ops_hopper", "bench_gpt2_f32", "bench_gpt2_bf16", "bench_1b_bf16", "bench_1b_q8_0",
            "bench_8b_bf16", "bench_8b_q8_0", "torch_cases", "torch"]


def test_parts_come_in_order_and_all_is_reported(run, tmp_path):
    ran, report = run("--jobs", "3")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = outcomes(report)
    assert list(found) == IN_ORDER
    room = found.pop("bench_8b_bf16"), found.pop("bench_8b_q8_0")
    assert found.pop("torch") == "skipped" and set(found.values()) == {"ok"} and room == ("ok", "ok")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert report["commit"].startswith(head or "unknown") and report["card"] == "Some Card" and report["nvcc"] == "release 13.0"
    assert report["date"].endswith("Z") and report["command"].startswith("tools/gpu_check.sh --build")
    assert "-DCMAKE_CUDA_ARCHITECTURES=90a-real" in report["parts"][1]["command"] and "-j 3" in report["parts"][2]["command"]
    assert set(report["op_check"]) == set(report["ops"]) == {"portable", "hopper"} and len(report["bench_models"]) == 6
    assert report["models"][0]["good"] and report["models"][0]["text"] == "the same 2 tokens"
    assert "tier hopper" in (tmp_path / "out/op_check_hopper.log").read_text() and report["torch"] is None
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| matmul bf16 T=1 4096->14336 | 40.0 | 0.72 of bandwidth | 40.0 | 0.72 of bandwidth | - | - | - |" in text
    assert "| attend f16 D=64 decode 1 x 131072 | out of memory | - |" in text
    for line in text.splitlines():   # every row as wide as its head
        if line.startswith("|"):
            width = line.count("|") if not line.startswith("| ---") and previous == "" else width
            assert line.count("|") == width, line
        previous = line


def test_another_card_has_one_tier(run):
    ran, report = run(FAKE_CAPABILITY="8.6", FAKE_MEMORY="24000")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = outcomes(report)
    assert "op_check_hopper" not in found and "bench_ops_hopper" not in found
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real" in report["parts"][1]["command"]
    assert found["bench_8b"] == "skipped" and "24000" in [part["reason"] for part in report["parts"] if part["name"] == "bench_8b"][0]


def test_a_failure_stops_nothing_but_counts(run):
    ran, report = run(FAKE_CONFORM="1", FAKE_OP_CHECK="1")
    found = outcomes(report)
    assert ran.returncode == 1 and list(found) == IN_ORDER
    assert found["conform"] == found["op_check_portable"] == "failed" and found["bench_ops_portable"] == found["models"] == "ok"
    assert "exit code 1: 0 wrong" in [part["reason"] for part in report["parts"]]


def test_what_was_not_built_is_not_run(run):
    ran, report = run(FAKE_BUILD_FAILS="1")
    found = outcomes(report)
    assert ran.returncode == 1 and found["build"] == "failed" and found["conform"] == found["torch_cases"] == "not run"
    reasons = {part["name"]: part["reason"] for part in report["parts"]}
    assert reasons["build"] == 'exit code 2: x.cu(3): error: identifier "foo" is undefined'
    assert reasons["conform"].endswith("bin/conform is not there")


def test_what_hangs_is_ended_and_the_whole_run_ends(run):
    ran, report = run("--seconds", "9", FAKE_OP_CHECK_SLEEPS="1")
    parts = {part["name"]: part for part in report["parts"]}
    assert ran.returncode == 1 and parts["op_check_portable"]["status"] == "failed"
    assert "did not end within" in parts["op_check_portable"]["reason"] and "ok one case" in parts["op_check_portable"]["reason"]
    assert parts["torch"]["status"] == "not run" and parts["torch"]["reason"] == "the 9 s of this run are over"
    assert sum(part["seconds"] for part in report["parts"]) < 20


def test_a_card_that_the_sanitizer_refuses_is_an_excuse(run):
    ran, report = run(FAKE_SANITIZER="========= Error: Device not supported. Please refer to the documentation")
    parts = {part["name"]: part for part in report["parts"]}
    assert ran.returncode == 0 and parts["memcheck"]["status"] == "skipped" and "Device not supported" in parts["memcheck"]["reason"]
    ran, report = run(FAKE_SANITIZER="========= ERROR SUMMARY: 3 errors")
    assert ran.returncode == 1 and outcomes(report)["memcheck"] == "failed"


def test_no_sanitizer_is_said(run, fakes):
    (fakes / "compute-sanitizer").unlink()
    ran, report = run()
    assert ran.returncode == 0 and outcomes(report)["racecheck"] == "skipped"


@pytest.mark.parametrize("change, words", [
    (lambda fakes: (fakes / "nvidia-smi").unlink(), "there is no nvidia-smi"),
    (lambda fakes: script(fakes / "nvidia-smi", "echo 'No devices were found'; exit 6"), "nvidia-smi shows no card 0"),
    (lambda fakes: (fakes / "nvcc").unlink(), "no nvcc"),
])
def test_no_card_and_no_compiler_are_one_sentence(run, fakes, tmp_path, change, words):
    change(fakes)
    ran, report = run()
    assert ran.returncode == 1 and report is None and not (tmp_path / "out").exists()
    assert ran.stdout == "" and ran.stderr.startswith("error: gpu_check: ") and ran.stderr.count("\n") == 1 and words in ran.stderr


@pytest.mark.parametrize("flags, words", [(("--card", "x"), "'x' is no number"), (("--fast",), "no option '--fast'")])
def test_nonsense_is_one_sentence(run, flags, words):
    ran, _ = run(*flags)
    assert ran.returncode == 1 and words in ran.stderr and ran.stderr.count("\n") == 1


def test_dry_run_says_the_parts(run, fakes, tmp_path):
    (fakes / "nvidia-smi").unlink()
    ran, report = run("--dry-run")
    assert ran.returncode == 0 and report is None and not (tmp_path / "out").exists()
    assert [line.split()[0] for line in ran.stdout.splitlines()] == IN_ORDER


def test_texts_that_part_at_a_tie_are_good():
    from gpu_models import text_verdict
    tops = [[{"token": 1, "logprob": -0.1}, {"token": 2, "logprob": -2.5}],
            [{"token": 3, "logprob": -0.7}, {"token": 4, "logprob": -0.705}]]
    assert text_verdict([1, 3], [1, 3], tops) == (True, "the same 2 tokens")
    assert text_verdict([1, 3], [1, 4], tops)[0] and "0.0050 nats" in text_verdict([1, 3], [1, 4], tops)[1]
    assert not text_verdict([1, 3], [2, 3], tops)[0]   # no tie
    assert not text_verdict([1, 3], [1, 9], tops)[0]   # none of the two
    assert not text_verdict([1, 3], [1], tops)[0]


def test_ratios_are_of_the_better_tier_and_of_pytorchs_best():
    from gpu_report import models_table, ops_table
    ours = {tier: {"limits": LIMITS, "cases": [CASES[0] | {"seconds": seconds}]}
            for tier, seconds in (("portable", 4e-5), ("hopper", 2e-5))}
    theirs = {"cases": [{"case": CASES[0]["case"], "who": "a", "seconds": 5e-5}, {"case": CASES[0]["case"], "who": "b", "seconds": 3e-5},
                        {"case": CASES[0]["case"], "who": "c", "error": "refused"}],
              "models": [{"shape": "gpt2", "type": "f32", "prefill_tps": 500.0, "decode_tps": 100.0, "memory_bytes": 9e8}]}
    report = {"ops": ours, "torch": theirs, "bench_models": [MODEL]}
    assert ops_table(report)[-2].endswith("| 30.0 | b | 1.50 |")
    assert models_table(report)[-2].endswith("| 0.60 (0.90) | 500, 2.00× | 100, 3.00× |")


def test_pytorch_on_the_cpu(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "torch.json"
    ran = subprocess.run([sys.executable, ROOT / "tools/gpu_torch.py", "--device", "cpu", "--quick", "--no-compile", "--json", out],
                         capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {row["case"] for row in result["cases"] if row.get("seconds", 0) > 0} == {"matmul bf16", "mlp bf16", "attend prefill",
                                                                                    "attend decode"}
    assert all("seconds" in row or row["error"] for row in result["cases"]) and len(result["models"]) == 2
    ran = subprocess.run([sys.executable, ROOT / "tools/gpu_torch.py"], capture_output=True, text=True,
                         env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert ran.returncode == 77 and "sees no CUDA device" in ran.stdout
