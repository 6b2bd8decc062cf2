#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Turns other people's checkpoints into Folio's weight file, and GGUF-made ones back. See tools/folio/__init__.py for the parts."""
import argparse
import os
import signal
import sys

from folio import ConvertError

EXAMPLES = """\
SRC is one of
  FILE.gguf             llama, qwen2, qwen3, phi3, gpt2; or a vocabulary alone
  FOLDER                Hugging Face: config.json, *.safetensors, tokenizer.json or tokenizer.model
                        (Llama, Mistral, Mixtral, Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE, Phi-3, GPT-2, DeepSeek-V2 and V3); weights may
                        be float8_e4m3fn with scales
  FILE.bin              llama2.c, versions 0, 1 and 2
  FILE.json             minGPT, tensors in base64
  FILE.pt, FILE.pth     a state dict; with config.json beside it unless it is llama2.c's or an autoencoder's
  FILE.safetensors      a thin video autoencoder: TAEHV, TAEW2.1, TAEW2.2 and their kin, told by the shapes of their tensors
                        or the prototype of the flow model of clips
  ENCODER DECODER       of TAESD, TAEF2 and their kin, .safetensors or .pth; or the folder that holds them
  FILE.folio            made from a GGUF file, with -o FILE.gguf: the way back

examples
  convert.py stories260K.bin --tokenizer tok512.bin -o stories.folio
  convert.py model-Q8_0.gguf -o model.folio                 q8_0 stays, bit for bit
  convert.py Qwen3-0.6B/ --type q8_0 -o qwen3.folio
  convert.py model.folio -o model.gguf                      what came from GGUF goes back
  convert.py taew2_1.safetensors -o wan.folio               decodes the latents of Wan 2.1
  convert.py taef2_encoder.pth taef2_decoder.pth -o taef2.folio
"""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(1, f"convert.py: {message}; see convert.py --help\n")


def arguments(argv):
    p = Parser(prog="convert.py", description=__doc__.split(" See")[0], epilog=EXAMPLES,
               formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", metavar="SRC", help="file or folder, see below")
    p.add_argument("further", metavar="SRC", nargs="?", help="the other half of an autoencoder")
    p.add_argument("-o", "--out", required=True, metavar="OUT", help="OUT.folio (OUT.gguf on the way back)")
    p.add_argument("--type", choices=["f32", "f16", "bf16", "q8_0", "q4_0", "f8_e4m3"],
                   help="convert the matrices to this format; without it each keeps its own")
    p.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, tokenizer.model, vocab.json (merges.txt beside it), "
                   "llama2.c's tok*.bin, a .gguf or a folder that holds one of them")
    p.add_argument("--vae", choices=["plain", "cogvideox", "front"], help="how an autoencoder counts frames, where its file's name does not say: "
                   "cogvideox keeps the first three of an even number of latents, front pads clips in front")
    p.add_argument("--name", help="the model's name, instead of the source's own")
    p.add_argument("--quiet", action="store_true", help="no progress, no table")
    return p.parse_args(argv)


def run(args):
    from folio import assemble, sources, to_gguf
    if os.path.exists(args.out) and os.path.realpath(args.out) == os.path.realpath(args.source):
        raise ConvertError(f"'{args.out}' is the source itself")
    if sources.is_folio(args.source):
        if not args.out.endswith(".gguf"):
            raise ConvertError(f"'{args.source}' is a .folio already; -o FILE.gguf takes it back")
        if args.type or args.tokenizer or args.name or args.vae or args.further:
            raise ConvertError("the way back takes no --type, --tokenizer, --name, --vae or second source")
        return to_gguf.convert(args.source, args.out, args.quiet)
    model = sources.load(args.source, args.tokenizer, args.further, args.vae, args.name)
    if model.decoder:
        model.decoder.name = args.name or model.decoder.name or sources.stem(args.source)
    return assemble.convert(model, args.out, args.type, args.quiet)


def stop(number, frame):
    raise KeyboardInterrupt


def main(argv=None):
    args = arguments(argv)
    try:
        report = run(args)
    except ConvertError as error:
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))  # names come from files
        print(f"convert.py: {said}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"convert.py: {error}; install what tools/requirements.txt lists", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("convert.py: stopped; nothing was written", file=sys.stderr)
        return 1
    if not args.quiet:
        print("\n".join(report))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)  # as Ctrl-C: the unfinished file is removed on the way out
    sys.exit(main())
