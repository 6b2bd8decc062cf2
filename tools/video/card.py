# SPDX-License-Identifier: CC0-1.0
"""The card of a trained video model: what it is, what it has seen, how it was trained and what the detector says of it."""
from . import shapes

TEXT = """# {name}

A small video model of our own: it draws clips of one moving shape from a caption such as "a red circle bouncing". A toy: it knows
{words} words.

| | |
| --- | --- |
| VAE | causal, thin, in TAEHV's layout: {vae:,} parameters; a latent of 16 channels stands for 8 × 8 pixels of 4 frames |
| flow model | log-linear attention and MesaNet in turn, adaLN, convolutional ffn: {flow:,} parameters |
| stored | f16 matrices and convolutions, the rest f32: {bytes:,} bytes |
| clips | {frames} frames of {side} × {side} pixels, {fps} a second |
| captions | "a [{sizes}] {colours} {kinds} {motions} [on a {backgrounds} background]"; what is in brackets may be left out |
| licence | CC0 1.0; the training data are drawn by `tools/video/shapes.py` |

## Data

Clips that are drawn on the spot: {scenes:,} scenes of size, colour, shape, motion and background, each time with a place, a path and
small deviations of its own. **Held out:** {held} of the {triples} triples of colour, shape and motion. No training clip has shown them,
neither to the VAE nor to the flow model.

## Recipe

    python tools/train_video.py all --out DIR

VAE: {vae_steps:,} steps of {vae_batch} crops of {crop} × {crop} pixels and {crop_frames} frames. Flow model: {flow_steps:,} steps
of {flow_batch} of {clips:,} encoded clips. Muon on matrices and convolutions, AdamW on the rest; the rates fall to zero at the end, and
what is shipped is the weights' running average. Rectified flow; one caption in {dropped:.0f} is dropped, for guidance. Sampled with
{sampler_steps} Euler steps, guidance {cfg:g}, shift {shift:g}.

## Results

VAE, on clips that training has not seen, held-out triples among them: PSNR {psnr}; share of reconstructions in which the
detector (`tools/video/detector.py`, right in 99% and more of true clips) sees what was drawn: {marks}.

Generated clips, one for each prompt of `tools/video/score.py`, drawn by PyTorch from the weights as trained; "all" is colour, motion and
shape together. `python tools/video/score.py --videogen build/videogen -m FILE` prints the same of the engine.

{table}
"""


def card(name, size, parameters, plans, steps, vae, table):
    """Markdown. plans: VAE, BANK, FLOW and SAMPLER of the trainer; steps taken by "vae" and "flow"; vae: what its judge said."""
    plan, bank, flow, sampler = plans
    one_of = lambda words: "/".join(words)
    triples = len(shapes.COLOURS) * len(shapes.SHAPES) * len(shapes.MOTIONS)
    return TEXT.format(
        name=name, words=len(shapes.WORDS) - 2, vae=parameters["VAE"], flow=parameters["flow model"], bytes=size, frames=shapes.FRAMES,
        side=shapes.SIDE, fps=8, sizes=one_of(shapes.SIZES), colours=one_of(shapes.COLOURS), kinds=one_of(shapes.SHAPES),
        motions=one_of(shapes.MOTIONS), backgrounds=one_of(shapes.BACKGROUNDS), triples=triples, held=len(shapes.HELD_OUT),
        scenes=triples * len(shapes.SIZES) * len(shapes.BACKGROUNDS), vae_steps=steps["vae"], vae_batch=plan["batch"], crop=plan["crop"],
        crop_frames=plan["frames"], flow_steps=steps["flow"], flow_batch=flow["batch"], clips=bank["clips"], dropped=1 / flow["no_caption"],
        sampler_steps=sampler["steps"], cfg=sampler["cfg"], shift=sampler["shift"], psnr=vae[0], marks=vae[1],
        table="\n".join(table))
