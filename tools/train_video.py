#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Trains Folio's small video model: a thin VAE and the flow model vg-s, on captioned shapes that it draws itself.

    python tools/train_video.py all --out DIR        vae, latents, flow, export: each goes on where it stopped

One file holds both. Metadata of DIR/NAME.folio:
    arch "video_dit" · name · vae.latent 16 (z) · vae.patch 1 · vae.time [1, 2, 2] · vae.pad "front" · vae.spatial 8
    video.frames 17 · video.height 64 · video.width 64 · video.fps 8 · video.grid [5, 4, 4] (time, rows, columns of tokens)
    video.patch 2 · video.dim d · video.layers n · video.heads H · video.ffn m · video.text L (words of a caption, 12)
    video.caption 32 (width of a word in the caption's summary) · video.words (texts: word i has index i; 0 fills up, 1 is "no caption")
    video.mixers (n texts, "log_linear" or "mesa") · video.reverse (n integers: 1 scans the video tokens backwards) · video.levels 8
    video.steps, video.cfg, video.shift: what was tuned for it
VAE: encoder.I.*, decoder.I.* in TAEHV's layout, convolutions as [taps, Cin, Cout]; a memory block's first convolution has 2·9 taps,
the past frame's first. pad "front": three copies of frame 0 stand before it, so that latent t covers frames 4t-3 .. 4t.

Flow model v(x, t, words). D = d/H = 32; N = 80 video tokens, T = L + N; C = z·patch² = 64. Linear layers are [out, in].
    flow.mean, flow.std [z]             x = (latent - mean) / std, per channel; the model lives in x
    flow.embed.weight [V, d]            words;  flow.text.position [L, d]
    flow.in.weight [d, C] (+ .bias)     a patch's channels: c·4 + 2·row + column (PyTorch's pixel_unshuffle);  flow.video.position [N, d]
    flow.time.0.weight [d, 128], flow.time.2.weight [d, d] (+ .bias)                         SiLU between
    flow.caption.embed.weight [V, 32], flow.caption.0.weight [d, 32·L], flow.caption.2.weight [d, d] (+ .bias)
    flow.modulate.weight [6d, d] (+ .bias), flow.modulate.table [n, 6d], flow.modulate.out.weight [2d, d] (+ .bias)
    flow.out.weight [C, d] (+ .bias)
    f_j = 10000^(-j/64), e = [cos(1000·t·f_0..63), sin(1000·t·f_0..63)]
    c = SiLU(time(e) + caption(the L words' 32 numbers, one behind the other))
    h = [embed(word_i) + text.position_i ; in(patch_j) + video.position_j],  j in order of time, row, column
    layer I: (scale1, shift1, gate1, scale2, shift2, gate2) = modulate(c) + table_I
        h += gate1 ⊙ mix(norm(h) ⊙ (1 + scale1) + shift1)      norm: LayerNorm without weights, eps 1e-5
        h += gate2 ⊙ ffn(norm(h) ⊙ (1 + scale2) + shift2)
    (scale, shift) = modulate.out(c);  v = out(norm(h of the video tokens) ⊙ (1 + scale) + shift), patches put back
    mix of layer I; with video.reverse the N video tokens come in and go out in the opposite order, the text stays in front
        flow.layer.I.mix.in.weight [4d, d]: rows of q, k, v, z, head after head   q, k = x / |x| of SiLU(q), SiLU(k), per head
        flow.layer.I.mix.gates.weight [2H (+ H·levels), d] (+ .bias): rows a [H], b [H], l [H·levels]
            log decay g = -softplus(a), write strength β = sigmoid(b), level weights λ = softplus(l) (log_linear)
        log_linear: o_t = Σ_{s≤t} λ_t[level(t, s)] e^(g_{s+1} + … + g_t) β_s (q_t·k_s) v_s   = ops/log_linear.h of β ⊙ v, no beta there
        mesa:       ops/mesa.h with Λ = flow.layer.I.mix.ridge [H, D] (stored as it is used), solved exactly
        out: flow.layer.I.mix.norm.weight [D] ⊙ o/√(mean o² + 1e-5) per head, ⊙ SiLU(z), flow.layer.I.mix.out.weight [d, d]
    ffn of layer I
        y = flow.layer.I.ffn.up.weight [2m, d] (+ .bias);  video tokens alone: depthwise 3×3 over rows and columns of a frame
        (flow.layer.I.ffn.space.weight [9, 2m] + .bias), then depthwise 3 over time (flow.layer.I.ffn.time.weight [3, 2m] + .bias),
        both padded by zeros on both sides (time too: it is not causal);  (u, w) = halves of y
        flow.layer.I.ffn.down.weight [d, m] (+ .bias) of SiLU(u) ⊙ w
The prototype's file (one that trains/tests are held against) has the same parts under other names: mx.I.qkv and .g are mix.in, ab and
lam are gates, softplus(Lam) + 1/4 is ridge, ff.I.a/dw/tw/b are ffn.up/space/time/down, tok, tpos, vpos, tm, cm, ctok, ada, adab, fin.
Sampler: x at t = 1 is noise; Euler x += (t_{i+1} - t_i)·v; guidance v = v_no + cfg·(v_words - v_no), "no" = word 1 and then zeros.
A clean first latent (from an image) stands in slot 0 with t = 0 for its tokens: e, c and all that is made of c are then per token.
"""
