#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Trains Folio's small default text model on a CPU, from public-domain books.

    python tools/train_text.py --data DIR --out DIR --minutes 85 [--until HH:MM] [--resume]

A Llama (RMSNorm, half-split RoPE, SwiGLU, grouped queries, tied embeddings) with its own byte-level BPE.
The module names below ARE the Hugging Face tensor names, so the export is the state_dict, unchanged.
The one idea: the schedule follows time, not steps. Every step moves `progress` by its share of the time
that is left, and the learning rate is a function of progress alone, so the run is fully annealed when its
minutes are over, on a fast machine, a busy one, one that was suspended, or after --resume.
It is not a general trainer: one architecture, one corpus, one process, float32.

Needs: torch >= 2.4, tokenizers, safetensors, numpy; a C++ compiler for torch.compile (or --eager).

DIR holds these files (all are in the public domain in the US; header and footer of Project Gutenberg cut off):
    tinyshakespeare.txt                     github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt
    gutenberg_2600_war_and_peace_body.txt   gutenberg.org/ebooks/2600
    gutenberg_1661_sherlock_holmes_body.txt gutenberg.org/ebooks/1661
    gutenberg_11_alice_body.txt             gutenberg.org/ebooks/11

Held out: the last 10% of the bytes of tinyshakespeare. Neither the tokenizer nor the weights see them; they
only choose which of the regular checkpoints is exported.
Bits per byte: the held-out text is tokenised whole, <|endoftext|> is put before it, and it is cut into
consecutive chunks of `context` inputs that share nothing; every token is predicted exactly once, from the
tokens of its own chunk only. Sum of -log2 p over all of them / raw UTF-8 bytes. (--stride S instead: windows of
`context` that advance by S, of which only the S new tokens count: more context for each, a lower number.)

Writes OUT/config.json, model.safetensors, tokenizer.json, tokenizer_config.json, and OUT/last.pt, best.pt
(training state; not part of the model). Files are written beside and renamed.
"""
import argparse
import datetime
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

EOT = "<|endoftext|>"
SHAKESPEARE = "tinyshakespeare.txt"
BOOKS = ["gutenberg_2600_war_and_peace_body.txt", "gutenberg_1661_sherlock_holmes_body.txt",
         "gutenberg_11_alice_body.txt"]
# The books print what the plays print in ASCII with curly quotes; folded, so that both train the same tokens.
FOLD = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\ufeff": None, "\r": None})


# ---- text -----------------------------------------------------------------------------------------------

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
    """Random windows. One in eight begins at a paragraph, after <|endoftext|>: so the model knows how to begin."""

    def __init__(self, bpe, docs, context, seed):
        self.context, self.rng, self.streams, self.paragraphs = context, np.random.default_rng(seed), [], []
        for doc in docs:
            code = bpe.encode(doc, add_special_tokens=False)
            ids = np.array(code.ids, dtype=np.int64)
            at = np.array([end for _, end in code.offsets])
            breaks = np.array([i + 2 for i in range(len(doc) - 2) if doc[i:i + 2] == "\n\n" != doc[i + 1:i + 3]])
            begin = np.searchsorted(at, breaks, side="right")
            self.streams.append(ids)
            self.paragraphs.append(begin[begin < len(ids) - context - 1])
        books = np.array([len(s) for s in self.streams[1:]], dtype=float)
        self.books = books / books.sum()

    def batch(self, rows, progress):
        """[B, T+1] ids. Shakespeare's share grows from 0.35 to 0.65: the books teach English, then the plays style."""
        share = 0.35 + 0.3 * progress
        weights = np.concatenate([[share], (1 - share) * self.books])
        out = np.zeros((rows, self.context + 1), dtype=np.int64)  # 0 is <|endoftext|>
        for row in out:
            doc = self.rng.choice(len(self.streams), p=weights)
            ids = self.streams[doc]
            if self.rng.random() < 0.125:
                start = self.rng.choice(self.paragraphs[doc])
                row[1:] = ids[start:start + self.context]
            else:
                start = self.rng.integers(len(ids) - self.context)
                row[:] = ids[start:start + self.context + 1]
        return torch.from_numpy(out)


# ---- model ----------------------------------------------------------------------------------------------

class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):  # [B,T,C]
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def rotate(x, cos, sin):  # x [B,H,T,D]; cos, sin [T,D/2]; half-split pairs (i, i + D/2), as Hugging Face
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def drop(x, p, training):  # x [B,T,C]; one mask for all of a window's tokens: a mask of x's size costs a sixth of a step
    return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), p) if training else x


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.size = c["head_dim"]
        wide, narrow = c["num_attention_heads"] * self.size, c["num_key_value_heads"] * self.size
        self.q_proj = nn.Linear(c["hidden_size"], wide, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], narrow, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], narrow, bias=False)
        self.o_proj = nn.Linear(wide, c["hidden_size"], bias=False)
        self.group = c["num_attention_heads"] // c["num_key_value_heads"]

    def forward(self, x, cos, sin):  # [B,T,C]
        rows, length, _ = x.shape
        q, k, v = (p(x).view(rows, length, -1, self.size).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))  # [B,H,T,D], [B,G,T,D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(self.group, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # no dropout here: it would leave the fast path
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):  # [B,T,C]
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(c["hidden_size"]), Attention(c)
        self.post_attention_layernorm, self.mlp = RMSNorm(c["hidden_size"]), Mlp(c)
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
            "norm": RMSNorm(c["hidden_size"])})
        self.dropout = dropout
        for name, p in self.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                nn.init.zeros_(p)  # every layer begins as the identity
            elif p.ndim == 2:
                nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5)
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


# ---- optimiser ------------------------------------------------------------------------------------------

class Muon(torch.optim.Optimizer):
    """Momentum, then each matrix's update made orthogonal by five Newton-Schulz steps.

    kellerjordan.github.io/posts/muon; matrices of one shape are orthogonalised together as one batch."""

    def __init__(self, matrices, lr, momentum, weight_decay):
        shapes = {}
        for p in matrices:
            shapes.setdefault(tuple(p.shape), []).append(p)
        super().__init__([{"params": ps} for ps in shapes.values()],
                         {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            grads = torch.stack([p.grad for p in group["params"]])  # [N,rows,cols]
            first = self.state[group["params"][0]]
            mean = first.setdefault("mean", torch.zeros_like(grads)).lerp_(grads, 1 - group["momentum"])
            update = orthogonal(grads.lerp(mean, group["momentum"]))  # Nesterov
            scale = max(1, grads.shape[1] / grads.shape[2]) ** 0.5
            for p, u in zip(group["params"], update):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=group["lr"] * scale)


def orthogonal(g):  # [N,rows,cols] -> the same singular vectors, all singular values near 1
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x  # the post's quintic
    return x.transpose(1, 2) if tall else x


def optimisers(net):
    matrices = [p for n, p in net.named_parameters() if "_proj" in n]
    rest = [p for n, p in net.named_parameters() if "_proj" not in n]
    return [Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1),
            torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.95), weight_decay=0.01)]


def rate(step, progress):
    """Share of the peak learning rate: 100 steps up, level, then a line to zero over the last 60% of the time."""
    return min(1, (step + 1) / 100) * min(1, (1 - progress) / 0.6)


# ---- measuring, saving ----------------------------------------------------------------------------------

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


def replace(path, data):
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    os.replace(beside, path)


def save_state(path, state):
    beside = path.with_name(path.name + ".part")
    torch.save(state, beside)
    os.replace(beside, path)


def export(out, config, bpe, weights):
    tensors = {name: w.contiguous().to(torch.bfloat16) for name, w in weights.items()}
    replace(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    replace(out / "config.json", json.dumps(config, indent=2).encode())
    replace(out / "tokenizer.json", bpe.to_str(pretty=True).encode())
    replace(out / "tokenizer_config.json", json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOT, "eos_token": EOT, "unk_token": None,
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"]}, indent=2).encode())


def config_of(args):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": args.vocab,
            "hidden_size": args.dim, "intermediate_size": args.ffn, "num_hidden_layers": args.layers,
            "num_attention_heads": args.dim // args.head, "num_key_value_heads": args.kv_heads,
            "head_dim": args.head, "hidden_act": "silu", "max_position_embeddings": args.context,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True,
            "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
            "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16", "use_cache": True}


# ---- the run --------------------------------------------------------------------------------------------

class Clock:
    """Progress from 0 to 1 over `minutes` of running time, or until a time of day if that comes first.

    A step that took over 5x the usual was a suspended process: it spends only the usual. On --resume a
    new Clock takes up the old progress and spreads the rest over the minutes that are left."""

    def __init__(self, minutes, until, progress, active):
        self.left = minutes * 60 - active
        self.progress, self.active, self.usual, self.last = progress, active, None, time.time()
        self.end = math.inf
        if until:
            now = datetime.datetime.now(datetime.timezone.utc)
            hour, minute = map(int, until.split(":"))
            end = now.replace(hour=hour, minute=minute, second=0)
            self.end = (end if end > now else end + datetime.timedelta(days=1)).timestamp()

    def tick(self):
        now = time.time()
        dt = now - self.last
        if self.usual and dt > 5 * self.usual:
            dt = self.usual
        self.usual = dt if self.usual is None else 0.9 * self.usual + 0.1 * dt
        left = min(self.left, self.end - self.last)
        self.progress += (1 - self.progress) * min(1.0, dt / max(left, 1e-9))
        self.left, self.active, self.last = self.left - dt, self.active + dt, now

    def eta(self):
        return max(0.0, min(self.left, self.end - time.time()))


def train(args, net, step_fn, sampler, held, bpe, config):
    opts, clock, step, best = optimisers(net), Clock(args.minutes, args.until, 0.0, 0.0), 0, math.inf
    if args.resume:
        state = torch.load(args.out / "last.pt", weights_only=False)
        net.load_state_dict(state["net"])
        for opt, saved in zip(opts, state["opts"]):
            opt.load_state_dict(saved)
        step, best, sampler.rng = state["step"], state["best"], state["rng"]
        torch.set_rng_state(state["torch_rng"])
        clock = Clock(args.minutes, args.until, state["progress"], state["active"])
    peaks = [[g["lr"] for g in opt.param_groups] for opt in opts] if not args.resume else state["peaks"]
    smooth, seen, since, measured = None, 0, clock.active, clock.active
    warm = sampler.batch(args.rows, 0.0)
    step_fn(warm[:, :-1], warm[:, 1:]).mean().backward()  # compiles, outside the clock
    net.zero_grad()
    clock.last = time.time()
    while clock.progress < 1:
        for opt, peak in zip(opts, peaks):
            for group, lr in zip(opt.param_groups, peak):
                group["lr"] = lr * rate(step, clock.progress)
        batch = sampler.batch(args.rows, clock.progress)
        loss = step_fn(batch[:, :-1], batch[:, 1:]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        step, seen = step + 1, seen + batch[:, 1:].numel()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        clock.tick()
        if step % 25 == 0:
            print(f"step {step:5d}  {100 * clock.progress:5.1f}%  loss {smooth:.4f}  rate {rate(step, clock.progress):.3f}"
                  f"  {seen / (clock.active - since):6.0f} tokens/s  ETA {clock.eta() / 60:5.1f} min", flush=True)
            seen, since = 0, clock.active
        if clock.active - measured > 60 * args.measure or clock.progress >= 1:
            bpb = bits_per_byte(net, *held, args.context, args.context)
            print(f"step {step:5d}  held out: {bpb:.4f} bits per byte (best before: {best:.4f})", flush=True)
            if bpb < best:
                best = bpb
                save_state(args.out / "best.pt", net.state_dict())
                export(args.out, config, bpe, net.state_dict())
            save_state(args.out / "last.pt", {
                "net": net.state_dict(), "opts": [o.state_dict() for o in opts], "peaks": peaks, "step": step,
                "best": best, "rng": sampler.rng, "torch_rng": torch.get_rng_state(),
                "progress": clock.progress, "active": clock.active})
            clock.last = time.time()  # measuring is not training: it does not spend the minutes
            measured = since = clock.active
    return best


def arguments():
    p = argparse.ArgumentParser(description="Trains Folio's small default text model; see the head of this file.")
    p.add_argument("--data", type=Path, required=True, help="folder with the four texts")
    p.add_argument("--out", type=Path, required=True, help="Hugging Face style folder to write")
    p.add_argument("--minutes", type=float, default=85, help="training time, suspensions and measuring not counted")
    p.add_argument("--until", help="HH:MM, UTC: a hard end, whatever --minutes says")
    p.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    p.add_argument("--stride", type=int, default=0, help="train nothing; measure OUT/best.pt with this stride")
    p.add_argument("--measure", type=float, default=6, help="minutes between measurements and checkpoints")
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--dim", type=int, default=256)
    p.add_argument("--layers", type=int, default=5)
    p.add_argument("--ffn", type=int, default=640)
    p.add_argument("--head", type=int, default=64, help="size of a head")
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--rows", type=int, default=12, help="windows in a batch")
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eager", action="store_true", help="without torch.compile")
    return p.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    docs, held_text = read_texts(args.data)
    bpe, config = train_tokenizer(docs, args.vocab), config_of(args)
    ids = torch.tensor(bpe.encode(held_text).ids)
    held = ids, len(held_text.encode())
    net = Llama(config, args.dropout)
    count = sum(p.numel() for p in net.parameters())
    print(f"{count:,} parameters; held out {held[1]:,} bytes, {len(ids) - 1:,} tokens", flush=True)
    if args.stride:
        net.load_state_dict(torch.load(args.out / "best.pt"))
        print(f"{bits_per_byte(net, *held, args.context, args.stride):.4f} bits per byte, stride {args.stride}")
        return
    sampler = Sampler(bpe, docs, args.context, args.seed)
    print("training tokens: " + ", ".join(f"{len(s):,}" for s in sampler.streams), flush=True)
    step_fn = net if args.eager else torch.compile(net, dynamic=False)
    best = train(args, net, step_fn, sampler, held, bpe, config)
    print(f"done: {best:.4f} bits per byte held out; {args.out} is ready for tools/convert.py", flush=True)


if __name__ == "__main__":
    main()
