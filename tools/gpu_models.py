#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whole models on a card against the CPU: the same greedy text, and no node of the first step that differs.

    python tools/gpu_models.py --generate build/bin/generate --device cuda:0 models/weights/*.folio

Where the card's text leaves the CPU's, the CPU's own two best tokens must have been a tie, or it counts as wrong: kernels
that round differently may choose the other one of two equals, and from there on the texts are different texts.
"""
import argparse
import json
import subprocess
import sys

PROMPT = "First Citizen: Before we proceed any further, hear me speak."
TIE = 0.02   # nats between the CPU's two best tokens


def run(flags, model, device, *more):
    return subprocess.run([flags.generate, "-m", model, "-p", PROMPT, "--device", device, "-q", *more], capture_output=True, text=True)


def greedy(flags, model, device):
    """The tokens, and of each the likeliest two with their log-probabilities; or the sentence of the error."""
    ran = run(flags, model, device, "-n", str(flags.tokens), "--temp", "0", "--ignore-eos", "--json", "--logprobs", "2")
    if ran.returncode:
        return None, ran.stderr.strip() or f"exit code {ran.returncode}"
    answer = json.loads(ran.stdout)
    return answer["tokens"], [step["top"] for step in answer["logprobs"]]


def text_verdict(host, card, tops):
    """(good, words) of the card's tokens beside the CPU's."""
    if host == card:
        return True, f"the same {len(host)} tokens"
    at = next((i for i, (a, b) in enumerate(zip(host, card)) if a != b), min(len(host), len(card)))
    if at == len(host) or at == len(card):
        return False, f"{len(card)} tokens, the CPU gives {len(host)}"
    gap = tops[at][0]["logprob"] - tops[at][1]["logprob"]
    if card[at] in [top["token"] for top in tops[at]] and gap < TIE:
        return True, f"the same {at} tokens, then the other one of two that are {gap:.4f} nats apart"
    return False, f"token {at} is {card[at]}, the CPU's is {host[at]}, ahead of its next by {gap:.4f} nats"


def check(flags, model):
    host, tops = greedy(flags, model, "cpu")
    if host is None:
        return {"model": model, "good": False, "text": f"on the CPU: {tops}", "nodes": ""}
    card, error = greedy(flags, model, flags.device)
    again, _ = greedy(flags, model, flags.device)   # another process, other addresses
    good, text = (False, str(error)) if card is None else text_verdict(host, card, tops)
    if card != again:
        good, text = False, "two runs on the card give different texts"
    nodes = run(flags, model, flags.device, "--against", "cpu")
    said = (nodes.stdout + nodes.stderr).strip().splitlines()
    return {"model": model, "good": good and nodes.returncode == 0, "text": text,
            "nodes": said[-1] if said else f"exit code {nodes.returncode}"}


def main():
    parser = argparse.ArgumentParser(prog="gpu_models", description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help=".folio files")
    parser.add_argument("--generate", default="build/bin/generate", help="the program (default: %(default)s)")
    parser.add_argument("--device", default="cuda:0", help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="of the text (default: %(default)s)")
    parser.add_argument("--json", help="write the results to this file")
    flags = parser.parse_args()
    results = []
    for model in flags.models:
        results.append(check(flags, model))
        print("{verdict:6} {model}: {text}; {nodes}".format(verdict="ok" if results[-1]["good"] else "WRONG", **results[-1]), flush=True)
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    return 0 if all(result["good"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
