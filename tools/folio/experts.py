# SPDX-License-Identifier: MIT
"""Layers of experts: a router's rule and the tensors of models/experts.h, from the configs and names of Hugging Face checkpoints.

Checkpoints have either a tensor for each expert and matrix or, as newer ones of transformers, all experts in one: gate_up_proj
[E, 2F, C], an expert's gate before its up, and down_proj [E, C, F]. Either way a stack of the .folio is a list of pieces that are
converted one after the other, so no more than some rows of one expert are ever in memory.
"""
import math
from dataclasses import dataclass

from . import ConvertError
from .decoder import Part, Wanted

BELOW = "model.layers.{i}.mlp."
# Of an expert or of all; the shared one has prefix, then the names of a dense ffn.
APART = {"gate": "experts.{j}.gate_proj.weight", "up": "experts.{j}.up_proj.weight", "down": "experts.{j}.down_proj.weight"}
MIXTRAL = {"gate": "experts.{j}.w1.weight", "up": "experts.{j}.w3.weight", "down": "experts.{j}.w2.weight"}
FUSED = {"gate_up": "experts.gate_up_proj", "down": "experts.down_proj"}


@dataclass
class Experts:
    """The description of a layer of experts; `names` has the tensors of the source, {i} the layer, {j} the expert."""
    count: int
    chosen: int
    width: int
    names: dict
    act: str = "silu"
    scoring: str = "softmax"
    normalise: bool = False
    scale: float = 1.0
    groups: int = 1
    kept: int = 1
    group_best: int = 1
    bias: bool = False              # on the choice alone
    shared: int = 0                 # width of the expert that all tokens meet
    shared_gate: bool = False

    def check(self):
        for key in ("count", "chosen", "width", "groups", "kept"):
            n = getattr(self, key)
            if not isinstance(n, int) or not 0 < n < 2**31:
                raise ConvertError(f"experts: {key} is {n!r}, expected a positive integer")
        if not isinstance(self.scale, (int, float)) or not 0 < self.scale < math.inf:
            raise ConvertError(f"experts: the scale of their weights is {self.scale!r}, expected a positive number")
        if self.count % self.groups or self.kept > self.groups:
            raise ConvertError(f"{self.count} experts cannot stand in {self.groups} groups of which {self.kept} are kept")
        if self.chosen > self.count // self.groups * self.kept:
            raise ConvertError(f"a token chooses {self.chosen} of {self.count // self.groups * self.kept} experts")
        if self.group_best > self.count // self.groups:
            raise ConvertError(f"groups of {self.count // self.groups} experts cannot be ranked by {self.group_best}")
        return self

    def metadata(self):
        meta = {"kind": "experts", "experts": self.count, "chosen": self.chosen, "dim": self.width, "gated": 1, "act": self.act,
                "scoring": self.scoring, "normalise": int(self.normalise), "scale": float(self.scale)}
        if self.groups > 1:
            meta |= {"groups": self.groups, "groups_kept": self.kept, "group_best": self.group_best}
        if self.bias:
            meta["bias"] = 1
        if self.shared:
            meta |= {"shared": self.shared, "shared_gate": int(self.shared_gate)}
        return meta

    def wanted(self, ours, layer, dim):
        """Tensors of the layer's ffn, below the prefix `ours`, "layer.3.ffn."."""
        E, F, C = self.count, self.width, dim
        name = lambda part, j=0: self.names[part].format(i=layer, j=j)
        out = [Wanted(ours + "router.weight", (E, C), [Part(name("router"), (E, C))], False)]
        if self.bias:
            out.append(Wanted(ours + "router.bias", (E,), [Part(name("bias"), (E,))], False))

        def stack(ours_name, part, rows, columns, half=None):
            if half is not None:    # rows half·F .. of each expert of gate_up
                pieces = [Part(name("gate_up"), (E, 2 * F, C), ((2 * j + half) * F, (2 * j + half + 1) * F)) for j in range(E)]
            elif "{j}" not in self.names[part]:
                pieces = [Part(name(part), (E, rows, columns))]
            else:
                pieces = [Part(name(part, j), (rows, columns)) for j in range(E)]
            out.append(Wanted(f"{ours}experts.{ours_name}.weight", (E, rows, columns), pieces))

        fused = "gate_up" in self.names
        stack("gate", "gate", F, C, 0 if fused else None)
        stack("up", "up", F, C, 1 if fused else None)
        stack("down", "down", C, F)
        if self.shared:
            for part, shape in (("gate", (self.shared, C)), ("up", (self.shared, C)), ("down", (C, self.shared))):
                out.append(Wanted(f"{ours}shared.{part}.weight", shape, [Part(f"{name('shared')}{part}_proj.weight", shape)]))
        if self.shared_gate:
            out.append(Wanted(ours + "shared_gate.weight", (1, C), [Part(name("shared_gate"), (1, C))], False))
        return out


def _names(tensors, below, apart, more):
    """Names of the layout that the checkpoint has."""
    fused = any(name.endswith(FUSED["gate_up"]) for name in tensors)
    return {part: below + name for part, name in (FUSED if fused else apart).items()} | {p: below + n for p, n in more.items()}


def _sparse(config, layers):
    """Per layer, whether it has experts (Qwen's keys)."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers", [])
    if not isinstance(step, int) or step < 1 or not isinstance(dense, list):
        raise ConvertError(f"'{config.path}': decoder_sparse_step is {step!r}, mlp_only_layers {dense!r}")
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def _below(tensors):
    return "model.layers.{i}.block_sparse_moe." if any(".block_sparse_moe." in name for name in tensors) else BELOW


def mixtral(config, tensors, act, layers):
    """(Experts, per layer whether it has them) of Mixtral."""
    below = _below(tensors)
    return Experts(config.need("num_local_experts"), config.need("num_experts_per_tok"), config.need("intermediate_size"),
                   _names(tensors, below, MIXTRAL, {"router": "gate.weight"}), act, normalise=True), [True] * layers


def qwen(config, tensors, act, layers, shared):
    """The same of Qwen2-MoE (shared: with a gated shared expert) and Qwen3-MoE."""
    names = {"router": "gate.weight", "shared": "shared_expert.", "shared_gate": "shared_expert_gate.weight"}
    count = config.need("num_local_experts" if config.get("num_experts") is None else "num_experts")
    return Experts(count, config.need("num_experts_per_tok"), config.need("moe_intermediate_size"), _names(tensors, BELOW, APART, names),
                   act, normalise=bool(config.get("norm_topk_prob", False)), shared_gate=shared,
                   shared=config.need("shared_expert_intermediate_size") if shared else 0), _sparse(config, layers)


def deepseek(config, tensors, act, layers, sparse=None):
    """The same of DeepSeek-V2 and V3, whose config.json says by topk_method how groups are ranked (absent: V3's, if scores are sigmoids);
    and of Kimi Linear, which has V3's rule and Mixtral's names. sparse: the list, where config.json has one.

    config: from_hf.Config with the defaults of the architecture. (None, []) if no layer has experts. A conversion puts the two into its
    decoder (Decoder.experts and .sparse, or its own metadata() and wanted() by Experts.metadata() and Experts.wanted()).
    """
    count = config.get("n_routed_experts", config.get("num_local_experts"))
    first, each = config.get("first_k_dense_replace", 0), config.get("moe_layer_freq", 1)
    if not isinstance(first, int) or not isinstance(each, int) or each < 1:
        raise ConvertError(f"'{config.path}': first_k_dense_replace is {first!r}, moe_layer_freq {each!r}")
    sparse = sparse or [i >= first and i % each == 0 for i in range(layers)]
    if count is None or not any(sparse):
        return None, []
    scoring = config.get("scoring_func", "sigmoid" if config.get("model_type") == "deepseek_v3" else "softmax")
    method = config.get("topk_method", "noaux_tc" if scoring == "sigmoid" else "greedy")
    if method not in ("greedy", "group_limited_greedy", "noaux_tc") or scoring not in ("softmax", "sigmoid"):
        raise ConvertError(f"'{config.path}' routes by {method} of {scoring}; known are greedy, group_limited_greedy and noaux_tc of "
                           "softmax or sigmoid")
    if method != "noaux_tc":
        config.refuse("norm_topk_prob", False)  # with it, readers do not agree on what routed_scaling_factor then does
    grouped = method != "greedy" and (config.get("n_group", 1) > 1)
    names = {"router": "gate.weight", "bias": "gate.e_score_correction_bias", "shared": "shared_experts."}
    below, width = _below(tensors), config.need("moe_intermediate_size")
    names = _names(tensors, below, APART if below == BELOW else MIXTRAL, names)
    return Experts(count, config.need("num_experts_per_tok"), width, names, act, scoring=scoring,
                   normalise=bool(config.get("norm_topk_prob", False)), scale=config.get("routed_scaling_factor", 1.0),
                   groups=config.need("n_group") if grouped else 1, kept=config.need("topk_group") if grouped else 1,
                   group_best=2 if grouped and method == "noaux_tc" else 1, bias=method == "noaux_tc",
                   shared=width * config.get("n_shared_experts", 0)), sparse
