# SPDX-License-Identifier: CC0-1.0
"""The optimiser of our trainers for matrices: momentum, then each matrix's update made orthogonal (kellerjordan.github.io/posts/muon)."""
import torch


class Muon(torch.optim.Optimizer):
    """Five Newton-Schulz steps per update; matrices of one shape are orthogonalised together as one batch.

    A convolution's weight [O, I, h, w] counts as the matrix [O, I·h·w]."""

    def __init__(self, matrices, lr, momentum, weight_decay):
        groups = [{"params": [p for p in matrices if p.shape == s]} for s in dict.fromkeys(p.shape for p in matrices)]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            grads = torch.stack([p.grad.flatten(1) for p in group["params"]])  # [N,rows,cols]
            first = self.state[group["params"][0]]
            if not first:
                first["mean"] = torch.zeros_like(grads)
            mean = first["mean"].lerp_(grads, 1 - group["momentum"])
            update = orthogonal(grads.lerp(mean, group["momentum"]))  # Nesterov
            scale = max(1, grads.shape[1] / grads.shape[2]) ** 0.5
            for p, u in zip(group["params"], update):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u.reshape(p.shape), alpha=group["lr"] * scale)


def orthogonal(g):  # [N,rows,cols] -> the same singular vectors, all singular values near 1
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x  # the post's quintic
    return x.transpose(1, 2) if tall else x
