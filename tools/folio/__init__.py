# SPDX-License-Identifier: MIT
"""What tools/convert.py is made of: readers of other people's checkpoints, one description of a decoder, one writer.

    from_llama2c, from_gguf, from_hf, from_mingpt   a source: its decoder, its tensors, its vocabulary
    from_vae                                        autoencoders of images and clips
    from_video, from_mnist_flow                     the prototype of the flow model of clips; one of images of digits
    torch_zip                                       .pth files without PyTorch
    float8                                          e4m3 tensors of a checkpoint and their scales
    vocabulary, vocabulary_*                        tokenizers of every kind, bent into one form
    decoder                                         metadata and tensors of models/decoder.h
    assemble                                        source tensors -> wanted tensors, row by row
    format, quant                                   the .folio file and its number formats
    to_gguf                                         the way back
"""


class ConvertError(Exception):
    """The world is wrong (a file, a shape, a name). One sentence for the person in front of the screen."""
