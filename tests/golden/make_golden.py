#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the tiny models of tests/golden/hf, the routes of routes.npz and the tokenizers of tokenizer_json, and what
transformers and tokenizers make of them.

    python tests/golden/make_golden.py [NAME ...]        needs torch, transformers; its output is committed, CI needs neither

Every model is random, seeded, and scaled so that its logits spread and greedy decoding has no near ties. In each folder, beside
the checkpoint: shape.json {"prompt": T, "vocab": V, "steps": S}, and raw little-endian
    prompt.i32 [T]   logits_prompt.f32 [T,V]   ids.i32 [S]   logits_decode.f32 [S,V]
ids[0] is the greedy choice after the prompt; row k of logits_decode follows the prompt and ids[0..k]; ids[k+1] is its choice.
All of it float32 on the CPU, eager attention, the whole sequence anew for each step (no cache to be wrong about).
The matrices of *_fp8 are float8_e4m3fn with scales, as Qwen3-FP8 and compressed-tensors write them; the logits are those of the
floats that they stand for.
../routes.npz has what routers of experts choose: NAME.logits [T,E], NAME.weights [T,E], 0 where an expert is not chosen, NAME.bias [E]
where there is one, and NAME.options, the attributes of the op Route.
../tokenizer_json/NAME holds a tokenizer.json and ids.json, [[text, ids without special tokens], ...]; all but the unigram come out
the same each time.
"""
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent / "hf"
WORDS_OUT = OUT.parent / "tokenizer_json"
STEPS = 20
MARGIN = 0.01  # least distance of the greedy choice to the next: well above the 1e-4 that a test allows

LLAMA = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
DEEPSEEK = LLAMA | dict(num_key_value_heads=4, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
                        first_k_dense_replace=2)   # no layer has experts
EXPERTS = dict(first_k_dense_replace=1, n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2, n_shared_experts=1,
               moe_intermediate_size=16, routed_scaling_factor=1.5)
GPT_OSS = LLAMA | dict(num_hidden_layers=3, head_dim=16, intermediate_size=32, num_local_experts=6, num_experts_per_tok=2, sliding_window=24,
                       rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                        "truncate": False, "original_max_position_embeddings": 32})
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def rope(kind, theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


# name: class, config, prompt length, dtype of the file, further steps
CASES = {
    "llama": ("Llama", LLAMA | rope("default"), 140, "float32"),  # the prompt crosses positions 64 and 128
    "llama_llama3": ("Llama", LLAMA | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64), 72, "bfloat16"),
    "llama_linear": ("Llama", LLAMA | dict(attention_bias=True, mlp_bias=True) | rope("linear", factor=4.0), 40, "float16"),
    "llama_yarn": ("Llama", LLAMA | dict(head_dim=16) | rope("yarn", factor=4.0, original_max_position_embeddings=64), 80,
                   "float32"),
    "mistral": ("Mistral", LLAMA | dict(sliding_window=16) | rope("default", 1000000.0), 56, "float32"),
    "qwen2": ("Qwen2", LLAMA | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=24, max_window_layers=1,
                                    tie_word_embeddings=True) | rope("default", 1000000.0), 48, "bfloat16"),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=16) | rope("default", 1000000.0), 40, "float32"),
    "phi3": ("Phi3", LLAMA | dict(num_key_value_heads=4, pad_token_id=0)
             | rope("default", partial_rotary_factor=0.5), 40, "float32"),
    "qwen3_fp8": ("Qwen3", LLAMA | dict(hidden_size=64, intermediate_size=128, head_dim=16) | rope("default", 1000000.0), 24, "blocks"),
    "llama_fp8": ("Llama", LLAMA | dict(hidden_size=64, intermediate_size=128) | rope("default"), 24, "rows"),
    "deepseek_v2": ("DeepseekV2", DEEPSEEK | dict(q_lora_rank=None) | rope("yarn", factor=8.0, original_max_position_embeddings=64, mscale=0.707,
                                                                          mscale_all_dim=0.707, beta_fast=32, beta_slow=1), 140, "float32"),
    "deepseek_v3": ("DeepseekV3", DEEPSEEK | dict(q_lora_rank=24, attention_bias=True, num_mtp_layers=0)
                    | rope("yarn", factor=4.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.5), 80, "float32"),
    "deepseek_v3_fp8": ("DeepseekV3", DEEPSEEK | dict(hidden_size=64, intermediate_size=128, q_lora_rank=64, kv_lora_rank=64, v_head_dim=32,
                                                      qk_rope_head_dim=32, qk_nope_head_dim=32, num_mtp_layers=0) | rope("default"), 24, "blocks"),
    # A dense layer, then experts: V2's groups by their best, V3's by their two best with a bias on the choice.
    "deepseek_v2_moe": ("DeepseekV2", DEEPSEEK | EXPERTS | dict(q_lora_rank=None, topk_method="group_limited_greedy", norm_topk_prob=False)
                        | rope("default"), 40, "float32"),
    "deepseek_v3_moe": ("DeepseekV3", DEEPSEEK | EXPERTS | dict(q_lora_rank=24, norm_topk_prob=True, num_mtp_layers=0) | rope("default"), 40,
                        "float32"),
    "gpt2": ("GPT2", dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0), 44,
             "float32"),
    "mamba2": ("Mamba2", dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=24, n_groups=2, expand=2,
                              conv_kernel=4, chunk_size=32), 140, "float32"),
    "mixtral": ("Mixtral", LLAMA | dict(intermediate_size=32, num_local_experts=4, num_experts_per_tok=2) | rope("default", 1000000.0), 40,
                "float16"),
    "qwen3_moe": ("Qwen3Moe", LLAMA | dict(head_dim=16, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)
                  | rope("default", 1000000.0), 40, "bfloat16"),
    # Sinks, windows and full attention in turn, biases everywhere; values of the experts beyond the limit of 7. Then its experts in mxfp4.
    "gpt_oss": ("GptOss", GPT_OSS, 140, "bfloat16"),
    "gpt_oss_mxfp4": ("GptOss", GPT_OSS | dict(num_hidden_layers=2), 40, "mxfp4"),
    # A dense layer, then experts beside a gated shared one; weights that do not add up to 1.
    "qwen2_moe": ("Qwen2Moe", LLAMA | dict(moe_intermediate_size=32, num_experts=6, num_experts_per_tok=3, mlp_only_layers=[0],
                                           shared_expert_intermediate_size=64) | rope("default", 1000000.0), 40, "float32"),
    # Two layers of gated DeltaNet, the first with a dense ffn, then one of gated attention.
    "qwen3_next": ("Qwen3Next", LLAMA | dict(num_hidden_layers=3, layer_types=["linear_attention"] * 2 + ["full_attention"], head_dim=16,
                                             linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=12,
                                             mlp_only_layers=[0], num_experts=6, num_experts_per_tok=2, moe_intermediate_size=16,
                                             shared_expert_intermediate_size=24)
                   | rope("default", 1000000.0, partial_rotary_factor=0.5), 140, "float32"),
    # Kimi delta attention with a dense ffn, latent attention without rope, again the former; two shared experts.
    "kimi_linear": ("KimiLinear", LLAMA | dict(num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
                                               linear_num_heads=3, linear_head_dim=12, num_key_value_heads=4, kv_lora_rank=32,
                                               qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, num_local_experts=8,
                                               num_experts_per_tok=3, n_group=4, topk_group=2, n_shared_experts=2, moe_intermediate_size=16,
                                               routed_scaling_factor=1.5, norm_topk_prob=True, pad_token_id=0), 140, "float32"),
}
DECODE = dict.fromkeys(["mamba2", "mixtral", "qwen3_moe", "qwen2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v2_moe",
                        "deepseek_v3_moe", "qwen3_next", "kimi_linear", "gpt_oss",
                        "gpt_oss_mxfp4"], 40)  # steps; the others take STEPS


def decays(name, x):
    """Rates of 1 to 8 and step sizes of 0.01 to 0.3 from normal numbers: memories of some tokens and of some hundreds."""
    even = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return torch.log(1 + 7 * even) if name.endswith("A_log") else torch.log(torch.expm1(0.01 * 30**even))


def randomise(model, seed):
    random = torch.Generator().manual_seed(seed)
    less_one = model.config.model_type == "qwen3_next"   # whose norms multiply by 1 + w, but for those behind a memory
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=random)
        if name.endswith((".A_log", ".dt_bias")) and model.config.model_type != "mamba2":
            x = decays(name, x)
        elif less_one and "norm" in name and "linear_attn" not in name:
            x = x * 0.2
        elif name.endswith(("self_attn.sinks", "mlp.router.bias")):
            pass
        elif name.endswith("gate_up_proj_bias"):
            x = x * 4  # some are beyond the limit of gpt-oss
        elif p.dim() == 1:
            x = x * 0.1 + (1 if "norm" in name or ".ln_" in name else 0) * (not name.endswith("bias"))
        elif "embed" in name or "wte" in name or "wpe" in name:
            x = x * (0.3 if model.config.tie_word_embeddings else 1)
        elif name.endswith(("mlp.gate.weight", "mlp.router.weight")):
            x = x * (4 / math.sqrt(p.shape[-1]))  # routers that have opinions
        else:
            x = x * (1.4 / math.sqrt(p.shape[-1]))  # more, and float32's own error comes near the tolerance of the tests
        p.data.copy_(x)
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(0.3 * torch.randn(b.shape, generator=random))


def old_keys(folder):
    """Rewrites rope_parameters as they were written before transformers 5."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    given = config.pop("rope_parameters")
    config["rope_theta"] = given.pop("rope_theta")
    config["rope_scaling"] = {"type": given.pop("rope_type")} | given
    path.write_text(json.dumps(config, indent=2) + "\n")


FLOAT8 = {
    "blocks": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 64]},
    "rows": {"quant_method": "compressed-tensors", "format": "float-quantized"},
}


def scales_of(x, blocks):
    """Of the largest number, so that it becomes 448: one to a block, to a row, or to matrices with more columns than rows."""
    rows, columns = FLOAT8["blocks"]["weight_block_size"] if blocks else (1 if x.shape[0] >= x.shape[1] else x.shape[0], x.shape[1])
    parts = x.reshape(x.shape[0] // rows, rows, x.shape[1] // columns, columns)
    return parts.abs().amax(dim=(1, 3)) / 448, rows, columns


def save_float8(model, folder, kind):
    """Writes the checkpoint and leaves in the model what it stands for."""
    out = {}
    for name, p in model.named_parameters():
        if p.dim() < 2 or "embed" in name or "lm_head" in name:
            out[name] = p.data.bfloat16()
            p.data.copy_(out[name].float())
            continue
        scale, rows, columns = scales_of(p.data, kind == "blocks")
        if kind == "rows":
            scale = scale.bfloat16()
        each = scale.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        out[name] = (p.data / each).clamp(-448, 448).to(torch.float8_e4m3fn)
        out[name + ("_scale_inv" if kind == "blocks" else "_scale")] = scale if scale.numel() > 1 else scale.reshape(())
        p.data.copy_(out[name].float() * each)
    if kind == "rows":
        out["model.layers.0.mlp.up_proj.input_scale"] = torch.tensor(0.125)
    safetensors.torch.save_file(out, folder / "model.safetensors")
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__], "quantization_config": FLOAT8[kind]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def save_mxfp4(model, folder):
    """Writes the checkpoint with its experts as gpt-oss publishes them: what they stand for, transformers says."""
    out = {}
    for name, p in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            out[name] = p.data.bfloat16()
            continue
        x = p.data.transpose(1, 2).reshape(p.shape[0], p.shape[2], -1, 32)
        exponent = torch.floor(torch.log2(x.abs().amax(-1, keepdim=True) / 4))   # the largest becomes 4 to 8, and at most 6
        code = (x.abs() / 2**exponent).unsqueeze(-1).sub(E2M1).abs().argmin(-1) + 8 * (x < 0)
        out[name + "_blocks"] = (code[..., 0::2] + 16 * code[..., 1::2]).byte()
        out[name + "_scales"] = (exponent.squeeze(-1) + 127).byte()
    safetensors.torch.save_file(out, folder / "model.safetensors")
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__], "quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    plain = transformers.Mxfp4Config(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", quantization_config=plain).eval()


@torch.no_grad()
def expected(model, length, seed, steps):
    """Prompt, its logits, greedy ids and theirs; and the smallest margin of a choice."""
    vocab = model.config.vocab_size
    random = torch.Generator().manual_seed(seed)
    sequence = torch.randint(3, vocab, (1, length), generator=random)
    prompt = model(sequence, use_cache=False).logits[0]
    ids, decode, last = [], [], prompt[-1]
    margin = math.inf
    for _ in range(steps):
        best = last.topk(2).values
        margin = min(margin, (best[0] - best[1]).item())
        ids.append(int(last.argmax()))
        sequence = torch.cat([sequence, torch.tensor([[ids[-1]]])], dim=1)
        last = model(sequence, use_cache=False).logits[0, -1]
        decode.append(last)
    return sequence[0, :length], prompt, torch.tensor(ids), torch.stack(decode), margin


def make_model(name):
    family, config, length, dtype = CASES[name]
    steps = DECODE.get(name, STEPS)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else family + "ForCausalLM")
    model = kind(getattr(transformers, family + "Config")(**config, attn_implementation="eager")).eval()
    for seed in range(1, 100):
        randomise(model, seed)
        if dtype in FLOAT8:
            save_float8(model, folder, dtype)
            stored = model
        elif dtype == "mxfp4":
            stored = save_mxfp4(model, folder)
        else:
            shards = {"max_shard_size": "60KB"} if name == "qwen3" else {}  # one of them in several files
            model.to(getattr(torch, dtype)).save_pretrained(folder, **shards)
            model.float()
            (folder / "generation_config.json").unlink(missing_ok=True)
            if name == "llama_linear":
                old_keys(folder)
            stored = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        prompt, logits, ids, decode, margin = expected(stored, length, seed, steps)
        if margin > MARGIN and len(set(ids.tolist())) > steps // 4:
            break
        for file in folder.iterdir():
            file.unlink()
    else:
        raise SystemExit(f"{name}: no seed gives clear choices")
    shape = {"prompt": length, "vocab": logits.shape[1], "steps": steps}
    (folder / "shape.json").write_text(json.dumps(shape) + "\n")
    for file, data in (("prompt.i32", prompt.int()), ("ids.i32", ids.int()),
                       ("logits_prompt.f32", logits), ("logits_decode.f32", decode)):
        (folder / file).write_bytes(data.contiguous().numpy().tobytes())
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, margin {margin:.3f}, logits' deviation {logits.std():.2f}, {size:,} bytes")


# ---- routers ----------------------------------------------------------------------------------------------------------

SOFTMAX, SIGMOID = 0, 1
GROUPED = dict(n_routed_experts=32, num_experts_per_tok=6, n_group=8, topk_group=3)
# name: architecture, class of its router, config, options: scoring, k, groups, kept, group_best, normalise, scale
ROUTES = {
    "mixtral": ("Mixtral", "MixtralTopKRouter", dict(num_local_experts=8, num_experts_per_tok=2), [SOFTMAX, 2, 1, 1, 1, 1, 1]),
    "qwen3_moe": ("Qwen3Moe", "Qwen3MoeTopKRouter", dict(num_experts=64, num_experts_per_tok=8, norm_topk_prob=True),
                  [SOFTMAX, 8, 1, 1, 1, 1, 1]),
    "qwen2_moe": ("Qwen2Moe", "Qwen2MoeTopKRouter", dict(num_experts=60, num_experts_per_tok=4), [SOFTMAX, 4, 1, 1, 1, 0, 1]),
    "v2_greedy": ("DeepseekV2", "DeepseekV2TopkRouter",
                  dict(n_routed_experts=64, num_experts_per_tok=6, topk_method="greedy", routed_scaling_factor=1.0),
                  [SOFTMAX, 6, 1, 1, 1, 0, 1]),
    "v2_groups": ("DeepseekV2", "DeepseekV2TopkRouter", GROUPED | dict(topk_method="group_limited_greedy", routed_scaling_factor=16.0),
                  [SOFTMAX, 6, 8, 3, 1, 0, 16]),
    "v3": ("DeepseekV3", "DeepseekV3TopkRouter", GROUPED | dict(norm_topk_prob=True, routed_scaling_factor=2.5),
           [SIGMOID, 6, 8, 3, 2, 1, 2.5]),
}


@torch.no_grad()
def make_routes():
    arrays = {}
    for seed, (name, (family, kind, config, options)) in enumerate(ROUTES.items()):
        experts = next(config[key] for key in ("num_local_experts", "num_experts", "n_routed_experts") if key in config)
        module = sys.modules[getattr(transformers, family + "ForCausalLM").__module__]
        router = getattr(module, kind)(getattr(transformers, family + "Config")(hidden_size=experts, **config))
        router.weight.copy_(torch.eye(experts))  # so that tokens are logits
        random = torch.Generator().manual_seed(seed)
        x = 2 * torch.randn((24, experts), generator=random)
        if hasattr(router, "e_score_correction_bias"):
            router.e_score_correction_bias.copy_(0.3 * torch.randn(experts, generator=random))
            arrays[name + ".bias"] = router.e_score_correction_bias.numpy()
        logits, weights, chosen = router(x)
        arrays |= {name + ".logits": logits.numpy(), name + ".options": np.array(options, np.float32),
                   name + ".weights": torch.zeros_like(logits).scatter(1, chosen, weights).numpy()}
    np.savez(OUT.parent / "routes.npz", **arrays)
    print(f"routes.npz: {len(ROUTES)} routers, {(OUT.parent / 'routes.npz').stat().st_size:,} bytes")


# ---- tokenizers -------------------------------------------------------------------------------------------------------

CORPUS = """\
The house stands on a hill above the river, and the river runs to the sea. In the morning the light comes through the
windows of the kitchen; in the evening it leaves by the door. Nobody knows who built it. They say that it was a carpenter who
couldn't read, that he'd drawn every beam with chalk on the floor, and that he'll come back when the last of them is gone.
There are 12 rooms, 4 stairs and 1 cellar, 365 panes of glass, and about 20000 nails. We're told that they were counted twice.
Das Haus steht über dem Fluß. La maison est là, près de la rivière; l'été y est très doux. Дом стоит на горе. 家は丘の上にある。
for i in range(10):
    if house[i].open and not house[i].empty:
        print("room", i, house[i].name)
"""
TEXTS = ["house", " river", "carpenter", "Hello world", " leading and trailing ", "the house's windows, they'll open!",
         "12345 and 1234567",
         "a\n\nb\n c\t\td   e",
         "über die Brücke — l'été", "Дом 家は丘 🙂 e\u0301", "<|end|>The<|end|> river", "x = [i for i in range(10)]\n    print(x)\n", ""]


def words(numbers):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS % numbers), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(pre, special, normalizer=None, size=400):
    t = Tokenizer(models.BPE(ignore_merges=special == "<|begin_of_text|>"))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=size, special_tokens=[special, "<|end|>"], show_progress=False,
                                                        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if special == "<|begin_of_text|>":
        t.post_processor = processors.TemplateProcessing(single=f"{special} $A", special_tokens=[(special, 0)])
    return t


def llama():
    """Llama 2's: letters with byte fallback, the space as a letter, merges without scores."""
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=560, special_tokens=special, show_progress=False))
    text = json.loads(t.to_str())
    text["added_tokens"] = text["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(text))
    t.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer, t.decoder = normalizers.NFKC(), decoders.Metaspace()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])  # as T5's
    t.train_from_iterator([CORPUS], trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<|end|>"],
                                                            unk_token="<unk>", show_progress=False))
    return t


TOKENIZERS = {
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), "<|endoftext|>"),
    "llama3": lambda: byte_level(words(r"\p{N}{1,3}"), "<|begin_of_text|>"),
    "qwen2": lambda: byte_level(words(r"\p{N}"), "<|endoftext|>", normalizers.NFC()),
    "digits": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Punctuation(),
                                                          pre_tokenizers.ByteLevel(add_prefix_space=False)]), "<|endoftext|>"),
    "llama": llama,
    "unigram": unigram,
}


def make_tokenizer(name):
    folder = WORDS_OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    t = TOKENIZERS[name]()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
    texts = [text for text in TEXTS if name != "unigram" or not set(text) & set("\n\t")]  # SentencePiece's own has no such cut
    pairs = [[text, t.encode(text, add_special_tokens=False).ids] for text in texts]
    (folder / "ids.json").write_text(json.dumps(pairs, ensure_ascii=False) + "\n")
    print(f"tokenizer_json/{name}: {t.get_vocab_size()} tokens, {sum(f.stat().st_size for f in folder.iterdir()):,} bytes")


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen = sys.argv[1:] or [*CASES, "routes", *(f"tokenizer_json/{t}" for t in TOKENIZERS)]
    for name in chosen:
        if name == "routes":
            make_routes()
        else:
            make_tokenizer(name.split("/")[1]) if "/" in name else make_model(name)


if __name__ == "__main__":
    main()
