# SPDX-License-Identifier: CC0-1.0
"""The two networks of the video model in PyTorch, in the form that trains fast: ThinVae and Flow. Names, shapes and formulas of what
is exported stand at the head of tools/train_video.py; the comments here say only where training computes the same thing differently.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


# ---- the VAE: TAEHV's layout. Clips are [B, T, 3, H, W], latents [B, T', z, H/8, W/8]; inside, frames are [B·T, C, H, W] channels last.

def conv(inside, outside, size=3, stride=1, bias=True):
    """Variance is kept; channels 0 to 2 carry the mean colour through the whole network, so it begins as a blur and not as noise."""
    c = nn.Conv2d(inside, outside, size, stride, size // 2, bias=bias)
    nn.init.normal_(c.weight, std=(inside * size * size) ** -0.5)
    with torch.no_grad():
        c.weight[:3] = 0
        for i in range(min(3, outside)):
            if stride == 2:
                c.weight[i, i, 1:, 1:] = 0.25
            else:
                c.weight[i, i, size // 2, size // 2] = 1
        if bias:
            c.bias.zero_()
    return c


def rows(x):
    """[N, C, H, W] channels last as [N, H, W, C], contiguous; planes() is the way back. What mixes frames does it on this side: on five
    dimensions PyTorch keeps no other order."""
    return x.permute(0, 2, 3, 1)


def planes(x):
    return x.permute(0, 3, 1, 2)


class PlusPast(torch.autograd.Function):
    """[B, T, H, W, 2c] -> [B, T, H, W, c]: the first half of the channels, plus the second half of the frame before."""

    @staticmethod
    def forward(ctx, both):
        now, past = both.chunk(2, dim=-1)
        out = now.contiguous()
        out[:, 1:] += past[:, :-1]
        return out

    @staticmethod
    def backward(ctx, grad):
        both = grad.new_empty(*grad.shape[:-1], 2 * grad.shape[-1])
        now, past = both.chunk(2, dim=-1)
        now.copy_(grad)
        past[:, :-1] = grad[:, 1:]
        past[:, -1] = 0
        return both


class MemBlock(nn.Module):
    """relu(x + conv(relu(conv(relu(conv([x, past])))))), past = x of the frame before, zeros before the first."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.ModuleDict({"0": conv(2 * c, c), "2": conv(c, c), "4": conv(c, c)})
        with torch.no_grad():
            for name, scale in (("0", 2 ** 0.5), ("2", 2 ** 0.5), ("4", 0.2)):
                nn.init.normal_(self.conv[name].weight, std=scale * self.conv[name].weight[0].numel() ** -0.5)
            self.conv["4"].weight[:3] = 0

    def forward(self, x, clips):
        first, c = self.conv["0"], x.shape[1]
        # Both halves of the weights see every frame once, then the past's part moves on by a frame: no concatenated input.
        both = F.conv2d(x, torch.cat(first.weight.split(c, dim=1)), torch.cat([first.bias, torch.zeros_like(first.bias)]), padding=1)
        h = planes(PlusPast.apply(rows(both).contiguous().unflatten(0, (clips, -1))).flatten(0, 1))
        return F.relu(self.conv["4"](F.relu(self.conv["2"](F.relu(h)))) + x)


class Pool(nn.Module):
    """`times` frames become one."""

    def __init__(self, c, times):
        super().__init__()
        self.conv, self.times = conv(times * c, c, 1, bias=False), times
        with torch.no_grad():
            for i in range(3):
                self.conv.weight[i] = 0
                self.conv.weight[i, i::c] = 1 / times

    def forward(self, x, clips):
        if self.times > 1:
            x = planes(rows(x).unflatten(0, (-1, self.times)).permute(0, 2, 3, 1, 4).flatten(3))
        return self.conv(x)


class Grow(nn.Module):
    """One frame becomes `times`, and twice as wide and high."""

    def __init__(self, c, times):
        super().__init__()
        self.conv, self.times = conv(c, times * c, 1, bias=False), times
        with torch.no_grad():
            self.conv.weight.copy_(torch.cat([conv(c, c, 1, bias=False).weight for _ in range(times)]))

    def forward(self, x, clips):  # before the upsampling that the layout has first: they commute, and here are fewer pixels
        x = self.conv(x)
        if self.times > 1:
            x = planes(rows(x).unflatten(3, (self.times, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1))
        return F.interpolate(x, scale_factor=2.0)


class Act(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x, clips=None):
        return self.f(x)


class ThinVae(nn.Module):
    def __init__(self, encoder, decoder, latent):
        super().__init__()
        relu = lambda: Act(F.relu)
        parts = [conv(3, encoder), relu()]
        for times in (2, 2, 1):
            parts += [Pool(encoder, times), conv(encoder, encoder, stride=2, bias=False), *(MemBlock(encoder) for _ in range(3))]
        self.encoder = nn.ModuleList(parts + [conv(encoder, latent)])
        parts = [Act(lambda z: 3 * torch.tanh(z / 3)), conv(latent, decoder[0]), relu()]
        for c, narrower, times in zip(decoder, decoder[1:], (1, 2, 2)):
            parts += [*(MemBlock(c) for _ in range(3)), Act(lambda x: x), Grow(c, times), conv(c, narrower, bias=False)]
        self.decoder = nn.ModuleList(parts + [relu(), conv(decoder[-1], 3)])
        self.register_buffer("mean", torch.zeros(latent))  # of the latents that encode() makes, per channel; set after training
        self.register_buffer("std", torch.ones(latent))
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def run(parts, x, clips):
        for part in parts:
            x = part(x) if isinstance(part, nn.Conv2d) else part(x, clips)
        return x

    def encode(self, video):
        """Front padding: latent t stands for frames 4t-3 .. 4t, the same that it is decoded to."""
        clips = len(video)
        video = torch.cat([video[:, :1].expand(-1, -video.shape[1] % 4, -1, -1, -1), video], dim=1)
        x = video.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.run(self.encoder, x, clips).unflatten(0, (clips, -1))

    def decode(self, latents):
        x = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.run(self.decoder, x, len(latents)).unflatten(0, (len(latents), -1))[:, 3:]

    def normalise(self, latents):
        return (latents - self.mean[:, None, None]) / self.std[:, None, None]

    def restore(self, latents):
        return latents * self.std[:, None, None] + self.mean[:, None, None]


def to_patches(latents):
    """[B, T', z, h, w] -> tokens [B, T'·h/2·w/2, 4z]"""
    clips = len(latents)
    return F.pixel_unshuffle(latents.flatten(0, 1), 2).flatten(2).transpose(1, 2).reshape(clips, -1, 4 * latents.shape[2])


def from_patches(tokens, grid):
    """The way back; grid = (T', h/2, w/2)."""
    x = tokens.unflatten(1, grid).permute(0, 1, 4, 2, 3)
    return F.pixel_shuffle(x.flatten(0, 1), 2).unflatten(0, (len(tokens), -1))


# ---- the flow model: tokens are [B, T, d], T = text + video, never reordered: a backward scan is another matrix of who comes before whom.

def scan_order(text, video, reverse):
    """before [T, T]: 1 where s is t or is scanned before it; level [T, L, T]: 1 at the level of (t, s)."""
    place = torch.arange(text + video)
    if reverse:
        place[text:] = place[text:].flip(0)
    t, s = place[:, None], place[None, :]
    level = torch.tensor([[0 if a <= b else (a ^ b).bit_length() for b in place.tolist()] for a in place.tolist()])
    levels = (text + video - 1).bit_length() + 1
    return (s <= t).float(), F.one_hot(level, levels).transpose(1, 2).float()


class Solve(torch.autograd.Function):
    """x (H_t + Λ) = q for every token, H_t = Σ_s M_ts k_sᵀ k_s, by conjugate gradients from q/(diag H + Λ), as ops/mesa.h does.

    A fixed number of rounds, enough to be as exact as the engine's tolerance; the gradient is that of the exact solution, which is one
    more solution with the same matrix. q, k [N, T, D], m [N, T, T] (N = batch and heads), ridge [N, 1, D]."""

    @staticmethod
    def cg(q, k, m, ridge, rounds):
        back = k.transpose(1, 2)
        times = lambda p: torch.baddbmm(p * ridge, (p @ back).mul_(m), k)
        x = q / (m @ (k * k) + ridge)
        r = q - times(x)
        p, delta = r, (r * r).sum(-1, keepdim=True)
        for _ in range(rounds):
            y = times(p)
            alpha = delta / (p * y).sum(-1, keepdim=True).clamp_min(1e-20)
            x = torch.addcmul(x, alpha, p)
            r = torch.addcmul(r, alpha, y, value=-1)
            new = (r * r).sum(-1, keepdim=True)
            p = torch.addcmul(r, new / delta.clamp_min(1e-20), p)
            delta = new
        return x

    @staticmethod
    def forward(ctx, q, k, m, ridge, rounds):
        x = Solve.cg(q, k, m, ridge, rounds)
        ctx.save_for_backward(x, k, m, ridge)
        ctx.rounds = rounds
        return x

    @staticmethod
    def backward(ctx, grad):
        x, k, m, ridge = ctx.saved_tensors
        y = Solve.cg(grad.contiguous(), k, m, ridge, ctx.rounds)
        xk, yk = x @ k.transpose(1, 2), y @ k.transpose(1, 2)
        to_m = -xk * yk
        to_k = -((yk.mul_(m)).transpose(1, 2) @ x + (xk.mul_(m)).transpose(1, 2) @ y)
        return y, to_k, to_m, -(x * y).sum(1, keepdim=True), None


class Mixer(nn.Module):
    def __init__(self, dim, heads, kind, levels, rounds):
        super().__init__()
        self.heads, self.kind, self.rounds = heads, kind, rounds
        extra = heads * levels if kind == "log_linear" else 0
        self.parts = nn.ModuleDict({"in": nn.Linear(dim, 4 * dim, bias=False), "gates": nn.Linear(dim, 2 * heads + extra),
                                    "out": nn.Linear(dim, dim, bias=False)})
        self.norm = nn.Parameter(torch.ones(dim // heads))
        if kind == "mesa":
            self.ridge = nn.Parameter(torch.zeros(heads, dim // heads))  # Λ = softplus + 1/4
        with torch.no_grad():
            bias = self.parts["gates"].bias
            bias[:heads] = torch.linspace(-5, -2, heads)  # heads that remember long and short
            bias[heads:2 * heads] = 2.0                   # β 0.88
            bias[2 * heads:] = 0.54                       # λ 1
            self.parts["gates"].weight.mul_(0.1)

    def forward(self, x, before, level):
        B, T, d = x.shape
        H, D = self.heads, d // self.heads
        q, k, v, z = (a.reshape(B, T, H, D).transpose(1, 2).reshape(B * H, T, D) for a in self.parts["in"](x).split(d, dim=-1))
        q, k = F.normalize(F.silu(q), dim=-1, eps=1e-6), F.normalize(F.silu(k), dim=-1, eps=1e-6)
        gates = self.parts["gates"](x)
        per_head = lambda a: a.transpose(1, 2).reshape(B * H, T)
        decay = -F.softplus(per_head(gates[..., :H])) @ before.T  # sums from the scan's beginning
        m = (decay[:, :, None] - decay[:, None, :]).masked_fill(before == 0, -torch.inf).exp()
        m = m * torch.sigmoid(per_head(gates[..., H:2 * H]))[:, None, :]
        if self.kind == "mesa":
            ridge = (F.softplus(self.ridge) + 0.25)[None, :, None].expand(B, -1, -1, -1).reshape(B * H, 1, D)
            q = Solve.apply(q, k, m, ridge, self.rounds)
        else:
            weight = F.softplus(gates[..., 2 * H:]).unflatten(-1, (H, -1)).permute(1, 0, 2, 3).reshape(T, B * H, -1)
            m = m * (weight @ level).transpose(0, 1)
        o = ((q @ k.transpose(1, 2)) * m) @ v
        o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * self.norm * F.silu(z)
        return self.parts["out"](o.reshape(B, H, T, D).transpose(1, 2).reshape(B, T, d))


class ConvFfn(nn.Module):
    def __init__(self, dim, wide, text, grid):
        super().__init__()
        self.text, self.grid = text, grid
        self.up, self.down = nn.Linear(dim, 2 * wide), nn.Linear(wide, dim)
        self.space, self.time = (nn.Conv2d(2 * wide, 2 * wide, size, padding=(size[0] // 2, size[1] // 2), groups=2 * wide)
                                 for size in ((3, 3), (3, 1)))
        for c in (self.space, self.time):
            nn.init.zeros_(c.bias)
            nn.init.normal_(c.weight, std=0.05)
            with torch.no_grad():
                c.weight[:, 0, 1, c.kernel_size[1] // 2] += 1
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        y = self.up(x)
        B, _, c = y.shape
        t, h, w = self.grid
        video = y[:, self.text:].reshape(B * t, h, w, c).permute(0, 3, 1, 2)
        video = self.space(video).permute(0, 2, 3, 1).reshape(B, t, h * w, c).permute(0, 3, 1, 2)
        video = self.time(video).permute(0, 2, 3, 1).reshape(B, t * h * w, c)
        u, v = torch.cat([y[:, :self.text], video], dim=1).chunk(2, dim=-1)
        return self.down(F.silu(u) * v)


class Layer(nn.Module):
    def __init__(self, dim, heads, wide, kind, reverse, text, grid, levels, rounds):
        super().__init__()
        self.reverse = reverse
        self.mix, self.ffn = Mixer(dim, heads, kind, levels, rounds), ConvFfn(dim, wide, text, grid)

    def forward(self, x, modulation, order):
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation
        norm = lambda a: F.layer_norm(a, a.shape[-1:], eps=1e-5)
        x = x + gate1 * self.mix(torch.addcmul(shift1, norm(x), 1 + scale1), *order)
        return x + gate2 * self.ffn(torch.addcmul(shift2, norm(x), 1 + scale2))


def mlp(inside, dim):
    return nn.Sequential(nn.Linear(inside, dim), nn.SiLU(), nn.Linear(dim, dim))


class Flow(nn.Module):
    def __init__(self, words, text, grid, channels, dim, layers, heads, wide, caption, mixers, reverse, rounds):
        super().__init__()
        video, self.text, self.slot = math.prod(grid), text, grid[1] * grid[2]
        self.embed, self.caption_embed = nn.Embedding(words, dim), nn.Embedding(words, caption)
        self.text_position, self.video_position = (nn.Parameter(torch.randn(n, dim) * 0.02) for n in (text, video))
        self.into, self.out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.time, self.caption = mlp(128, dim), mlp(text * caption, dim)
        self.modulate, self.modulate_out = nn.Linear(dim, 6 * dim), nn.Linear(dim, 2 * dim)
        self.table = nn.Parameter(torch.zeros(layers, 6 * dim))
        orders = [scan_order(text, video, r) for r in (0, 1)]
        levels = orders[0][1].shape[1]
        self.layers = nn.ModuleList(Layer(dim, heads, wide, kind, r, text, grid, levels, rounds) for kind, r in zip(mixers, reverse))
        for m in (self.modulate, self.modulate_out, self.out):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)
        for i, (before, level) in enumerate(orders):
            self.register_buffer(f"before{i}", before, persistent=False)
            self.register_buffer(f"level{i}", level, persistent=False)
        self.register_buffer("frequency", torch.exp(-math.log(10000) * torch.arange(64) / 64), persistent=False)

    def conditions(self, t, words):
        angle = 1000 * t[:, None] * self.frequency
        return F.silu(self.time(torch.cat([angle.cos(), angle.sin()], dim=-1)) + self.caption(self.caption_embed(words).flatten(1)))

    def forward(self, x, t, words, clean=None):
        """x [B, N, C] at time t [B]; clean [B] bool: the first latent's tokens are no noise, their time is 0 -> velocity [B, N, C]"""
        h = torch.cat([self.embed(words) + self.text_position, self.into(x) + self.video_position], dim=1)
        B, T, d = h.shape
        c = self.conditions(t, words)[:, None]
        if clean is not None:
            first = self.conditions(torch.where(clean, 0.0, t), words)[:, None]
            c = torch.cat([c, first], dim=1)

        def per_token(m):  # [B, 1 or 2, d] -> one for all tokens, or the first latent's tokens with their own
            if clean is None:
                return m
            rest, own = m[:, :1], m[:, 1:]
            return torch.cat([rest.expand(-1, self.text, -1), own.expand(-1, self.slot, -1),
                              rest.expand(-1, T - self.text - self.slot, -1)], dim=1)

        modulation = self.modulate(c)
        for layer, table in zip(self.layers, self.table):
            order = (getattr(self, f"before{layer.reverse}"), getattr(self, f"level{layer.reverse}"))
            h = layer(h, [per_token(m) for m in (modulation + table).split(d, dim=-1)], order)
        scale, shift = (per_token(m)[:, self.text:] if clean is not None else m for m in self.modulate_out(c).split(d, dim=-1))
        return self.out(torch.addcmul(shift, F.layer_norm(h[:, self.text:], (d,), eps=1e-5), 1 + scale))


@torch.no_grad()
def sample(flow, noise, words, nothing, steps, cfg, shift):
    """Euler from noise [B, N, C] with guidance against the words `nothing` [L] -> x at t = 0."""
    x, u = noise, torch.linspace(1, 0, steps + 1)
    times = (shift * u / (1 + (shift - 1) * u)).tolist()
    both = torch.cat([words, nothing.expand_as(words)])
    for now, then in zip(times, times[1:]):
        with_words, without = flow(torch.cat([x, x]), torch.full((len(both),), now, device=x.device), both).chunk(2)
        x = x + (then - now) * (without + cfg * (with_words - without))
    return x
