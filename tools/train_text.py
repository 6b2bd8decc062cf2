#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Trains Folio's small default text model on a CPU, from public-domain books.

    python tools/train_text.py --data DIR --out DIR --minutes 85 [--until HH:MM] [--resume]

A Llama (RMSNorm, half-split RoPE, SwiGLU, grouped queries, tied embeddings) with its own byte-level BPE.
The module names below ARE the Hugging Face tensor names, so the export is the state_dict, unchanged.
The one idea: the schedule follows time, not steps. Every step moves `progress` by its share of the time that is
left, and the learning rate follows progress, so the run is fully annealed when its minutes are over, on a fast
machine, a busy one, a suspended one, or after --resume. Not a general trainer: one architecture, one corpus, f32.

Needs: torch >= 2.4, tokenizers, safetensors, numpy; a C++ compiler for torch.compile (or --eager).

DIR holds these files (all are in the public domain in the US; header and footer of Project Gutenberg cut off):
    tinyshakespeare.txt                     github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt
    gutenberg_2600_war_and_peace_body.txt   gutenberg.org/ebooks/2600
    gutenberg_1661_sherlock_holmes_body.txt gutenberg.org/ebooks/1661
    gutenberg_11_alice_body.txt             gutenberg.org/ebooks/11

Held out: the last 10% of the bytes of tinyshakespeare. Neither the tokenizer nor the weights see them; they only
choose which of the regular checkpoints is exported. Bits per byte: the held-out text is tokenised whole,
<|endoftext|> is put before it, and it is cut into consecutive chunks of `context` inputs; every token is predicted
once, from the tokens of its own chunk only. Sum of -log2 p / raw UTF-8 bytes. (--stride S instead: windows that
advance by S, of which only the S new tokens count: each has more before it, so the number is lower.)

Writes config.json, model.safetensors (bf16), tokenizer.json, tokenizer_config.json to OUT, each beside and renamed,
and last.pt, the state for --resume.
"""
import argparse
import json
import math
import os
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from muon import Muon

EOT = "<|endoftext|>"
SHAKESPEARE = "tinyshakespeare.txt"
BOOKS = [f"gutenberg_{name}_body.txt" for name in ("2600_war_and_peace", "1661_sherlock_holmes", "11_alice")]
# The books print what the plays print in ASCII with curly quotes; folded, so that both train the same tokens.
FOLD = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\ufeff": None, "\r": None})


def read_texts(folder):
    """The training documents, Shakespeare first, and the held-out text with nothing changed in it."""
    raw = (folder / SHAKESPEARE).read_bytes()
    cut = len(raw) * 9 // 10
    docs = [raw[:cut].decode()] + [(folder / b).read_text(encoding="utf-8").translate(FOLD) for b in BOOKS]
    return docs, raw[cut:].decode()


def train_tokenizer(docs, vocab):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's pattern
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[EOT], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([docs[0]] * 4 + docs[1:], trainer)  # ×4: about the share it has in training
    bpe.post_processor = processors.TemplateProcessing(single=f"{EOT} $A", special_tokens=[(EOT, 0)])
    return bpe


class Sampler:
    """Random windows; one in eight begins at a paragraph, after <|endoftext|>, so that the model can begin."""

    def __init__(self, bpe, docs, context, seed):
        self.context, self.rng, self.streams, self.paragraphs = context, np.random.default_rng(seed), [], []
        for doc in docs:
            code = bpe.encode(doc, add_special_tokens=False)
            ids = np.array(code.ids, dtype=np.int64)
            breaks = [found.end() for found in re.finditer(r"\n\n(?!\n)", doc)]
            begin = np.searchsorted([end for _, end in code.offsets], breaks, side="right")
            self.streams.append(ids)
            self.paragraphs.append(begin[begin < len(ids) - context - 1])
        sizes = np.array([len(ids) for ids in self.streams[1:]])
        self.books = sizes / sizes.sum()

    def batch(self, rows, progress):
        """[B,T+1] ids. The books teach English first, then the plays their style: 0.35 to 0.65 Shakespeare."""
        weights = [0.35 + 0.3 * progress, *(0.65 - 0.3 * progress) * self.books]
        out = np.zeros((rows, self.context + 1), dtype=np.int64)  # 0 is <|endoftext|>
        for row in out:
            doc = self.rng.choice(len(self.streams), p=weights)
            ids = self.streams[doc]
            headed = int(self.rng.random() < 0.125)
            start = self.rng.choice(self.paragraphs[doc]) if headed else self.rng.integers(len(ids) - self.context)
            row[headed:] = ids[start:start + len(row) - headed]
        return torch.from_numpy(out)


linear, norm = partial(nn.Linear, bias=False), partial(nn.RMSNorm, eps=1e-5)


def rotate(x, cos, sin):  # x [B,H,T,D]; cos, sin [T,D/2]; half-split pairs (i, i + D/2), as Hugging Face
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def drop(x, p, training):  # x [B,T,C]; one mask for all of a window's tokens: one of x's size cost a sixth of a step
    return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), p) if training else x


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.size = c["head_dim"]
        dim, wide, narrow = (c["hidden_size"], c["num_attention_heads"] * self.size,
                             c["num_key_value_heads"] * self.size)
        self.q_proj, self.o_proj = linear(dim, wide), linear(wide, dim)
        self.k_proj, self.v_proj = linear(dim, narrow), linear(dim, narrow)

    def forward(self, x, cos, sin):  # [B,T,C]
        rows, length, _ = x.shape
        q, k, v = (p(x).view(rows, length, -1, self.size).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))  # [B,H,T,D], [B,G,T,D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # no dropout: slow
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, wide = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(dim, wide), linear(dim, wide), linear(wide, dim)

    def forward(self, x):  # [B,T,C]
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.input_layernorm, self.self_attn = norm(c["hidden_size"]), Attention(c)
        self.post_attention_layernorm, self.mlp = norm(c["hidden_size"]), Mlp(c)
        self.dropout = dropout

    def forward(self, x, cos, sin):  # [B,T,C]
        x = x + drop(self.self_attn(self.input_layernorm(x), cos, sin), self.dropout, self.training)
        return x + drop(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


class Llama(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(c["vocab_size"], c["hidden_size"]),
            "layers": nn.ModuleList(Layer(c, dropout) for _ in range(c["num_hidden_layers"])),
            "norm": norm(c["hidden_size"])})
        self.dropout = dropout
        for name, p in self.named_parameters():
            if p.ndim == 2:  # the way out of every layer is zero: each begins as the identity
                out = "o_proj" in name or "down_proj" in name
                nn.init.normal_(p, std=0.0 if out else 0.02 if "embed" in name else p.shape[1] ** -0.5)
        half = c["head_dim"] // 2
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(),
                            c["rope_theta"] ** (-torch.arange(half).float() / half))
        self.register_buffer("cos", angle.cos(), persistent=False)  # [T,D/2]
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, targets):  # [B,T] both -> loss of every token [B·T]
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        x = drop(self.model.embed_tokens(ids), self.dropout, self.training)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)  # [B,T,V]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


def optimisers(net):
    matrices = [p for n, p in net.named_parameters() if "_proj" in n]
    rest = [p for n, p in net.named_parameters() if "_proj" not in n]
    return [Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1),
            torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.95), weight_decay=0.01)]


def rate(step, progress):
    """Share of the peak learning rate: 100 steps up, level, then a line to zero over the last 60% of the time."""
    return min(1, (step + 1) / 100) * min(1, (1 - progress) / 0.6)


@torch.no_grad()
def bits_per_byte(net, ids, count, context, stride):
    """See the file's head. `ids` begins with <|endoftext|>; `count` is the raw length in bytes."""
    net.eval()
    total, done = 0.0, 0  # done: targets counted so far; target t is ids[t+1]
    while done < len(ids) - 1:
        end = min(done + (stride if done else context), len(ids) - 1)
        begin = max(0, end - context) if stride < context else done
        losses = net(ids[None, begin:end], ids[None, begin + 1:end + 1])
        total += losses[done - begin:].double().sum().item()
        done = end
    net.train()
    return total / math.log(2) / count


def replace(path, write):
    beside = path.with_name(path.name + ".part")
    write(beside)
    os.replace(beside, path)


def export(out, config, bpe, weights):
    tensors = {name: w.to(torch.bfloat16) for name, w in weights.items()}
    replace(out / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOT, "eos_token": EOT, "unk_token": None,
             "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
             "model_max_length": config["max_position_embeddings"]}
    for name, text in (("config.json", json.dumps(config, indent=2)), ("tokenizer.json", bpe.to_str(pretty=True)),
                       ("tokenizer_config.json", json.dumps(about, indent=2))):
        replace(out / name, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def config_of(args):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": args.vocab,
            "hidden_size": args.dim, "intermediate_size": args.ffn, "num_hidden_layers": args.layers,
            "num_attention_heads": args.dim // args.head, "num_key_value_heads": args.kv_heads,
            "head_dim": args.head, "hidden_act": "silu", "max_position_embeddings": args.context,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True,
            "attention_bias": False, "mlp_bias": False,
            "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16", "use_cache": True}


class Clock:
    """Progress from 0 to 1 over `minutes` of running time, or until a time of day if that comes first.

    A step that took over 5x the usual was a suspended process: it spends only the usual. After --resume the old
    progress goes on, and what is left of it is spread over the minutes that are left."""

    def __init__(self, minutes, until):
        self.progress, self.active, self.budget, self.usual, self.last = 0.0, 0.0, minutes * 60, None, time.time()
        self.end = math.inf
        if until:
            hour, minute = map(int, until.split(":"))
            self.end = self.last + (hour * 3600 + minute * 60 - self.last) % 86400  # the epoch began at midnight UTC

    def left(self):
        return max(1e-9, min(self.budget - self.active, self.end - self.last))

    def tick(self):
        now = time.time()
        dt = now - self.last
        self.usual = self.usual or dt
        dt = dt if dt < 5 * self.usual else self.usual
        self.usual += 0.1 * (dt - self.usual)
        self.progress += (1 - self.progress) * min(1.0, dt / self.left())
        self.active, self.last = self.active + dt, now


class Run:
    """Everything that changes while training, and that --resume takes up again."""

    def __init__(self, args, net, sampler):
        self.args, self.net, self.sampler = args, net, sampler
        self.opts, self.clock = optimisers(net), Clock(args.minutes, args.until)
        self.peaks = [[g["lr"] for g in opt.param_groups] for opt in self.opts]
        self.step_fn = net if args.eager else torch.compile(net, dynamic=False)
        self.step, self.best = 0, math.inf
        if args.resume:
            self.load()

    def load(self):
        state = torch.load(self.args.out / "last.pt", weights_only=False)
        self.net.load_state_dict(state["net"])
        for opt, saved in zip(self.opts, state["opts"]):
            opt.load_state_dict(saved)
        self.step, self.best, self.sampler.rng = state["step"], state["best"], state["rng"]
        self.clock.progress, self.clock.active = state["progress"], state["active"]
        torch.set_rng_state(state["torch_rng"])

    def save(self):
        state = {"net": self.net.state_dict(), "opts": [opt.state_dict() for opt in self.opts], "step": self.step,
                 "best": self.best, "rng": self.sampler.rng, "torch_rng": torch.get_rng_state(),
                 "progress": self.clock.progress, "active": self.clock.active}
        replace(self.args.out / "last.pt", lambda path: torch.save(state, path))

    def advance(self):
        """One step of all optimisers; the mean loss in nats per token."""
        for opt, peaks in zip(self.opts, self.peaks):
            for group, peak in zip(opt.param_groups, peaks):
                group["lr"] = peak * rate(self.step, self.clock.progress)
        batch = self.sampler.batch(self.args.rows, self.clock.progress)
        loss = self.step_fn(batch[:, :-1], batch[:, 1:]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for opt in self.opts:
            opt.step()
            opt.zero_grad()
        self.step += 1
        return loss.item()


def train(run, held, bpe, config):
    args, clock, smooth = run.args, run.clock, None
    shown = measured = clock.active
    warm = torch.zeros(args.rows, args.context, dtype=torch.int64)
    run.step_fn(warm, warm).mean().backward()  # compiles, outside the clock
    run.net.zero_grad()
    clock.last = time.time()
    while clock.progress < 1:
        loss = run.advance()
        smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
        clock.tick()
        if run.step % 25 == 0:
            speed = 25 * args.rows * args.context / (clock.active - shown)
            print(f"step {run.step:5d}  {100 * clock.progress:5.1f}%  loss {smooth:.4f}  {speed:5.0f} tokens/s  "
                  f"ETA {clock.left() / 60:5.1f} min", flush=True)
            shown = clock.active
        if clock.active - measured > 60 * args.measure or clock.progress >= 1:
            bits = bits_per_byte(run.net, *held, args.context, args.context)
            print(f"step {run.step:5d}  held out: {bits:.4f} bits per byte (best before: {run.best:.4f})", flush=True)
            if bits < run.best:
                run.best = bits
                export(args.out, config, bpe, run.net.state_dict())
            run.save()
            clock.last = time.time()  # measuring is not training: it does not spend the minutes
            measured = shown = clock.active


def arguments():
    p = argparse.ArgumentParser(description="Trains Folio's small default text model; see the head of this file.")
    p.add_argument("--data", type=Path, required=True, help="folder with the four texts")
    p.add_argument("--out", type=Path, required=True, help="Hugging Face style folder to write")
    p.add_argument("--minutes", type=float, default=85, help="training time, suspensions and measuring not counted")
    p.add_argument("--until", help="HH:MM, UTC: a hard end, whatever --minutes says")
    p.add_argument("--stride", type=int, help="train nothing: measure what OUT holds, with this stride")
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    p.add_argument("--measure", type=float, default=6, help="minutes between measurements and checkpoints")
    for name, value in {"vocab": 2048, "dim": 256, "layers": 5, "ffn": 640, "head": 64, "kv_heads": 2, "context": 512,
                        "rows": 12, "dropout": 0.1, "threads": 2, "seed": 1}.items():
        p.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=f"default {value}")
    p.add_argument("--eager", action="store_true", help="without torch.compile")
    return p.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    docs, text = read_texts(args.data)
    bpe, config = train_tokenizer(docs, args.vocab), config_of(args)
    held = torch.tensor(bpe.encode(text).ids), len(text.encode())
    net = Llama(config, args.dropout)
    count = sum(p.numel() for p in net.parameters())
    print(f"{count:,} parameters; held out {held[1]:,} bytes, {len(held[0]) - 1:,} tokens", flush=True)
    if args.stride is None:
        sampler = Sampler(bpe, docs, args.context, args.seed)
        print("training tokens: " + ", ".join(f"{len(s):,}" for s in sampler.streams), flush=True)
        train(Run(args, net, sampler), held, bpe, config)
    net.load_state_dict(load_file(args.out / "model.safetensors"))  # the bf16 weights, as shipped
    bits = bits_per_byte(net, *held, args.context, stride := args.stride or args.context)
    print(f"{args.out}: {bits:.4f} bits per byte held out (context {args.context}, stride {stride})")


if __name__ == "__main__":
    main()
