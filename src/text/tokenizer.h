// SPDX-License-Identifier: MIT
// Text to token ids and back: byte-level BPE (GPT-2 and its children), SentencePiece BPE with byte fallback (Llama 2, also
// llama2.c's tokenizer), SentencePiece unigram. Everything it needs is in a Vocabulary, which models/ reads from the weight
// file; this room knows no files.
//
// In the weight file (written by tools/convert.py):
//   tokenizer.bytes   u8  [bytes]  the bytes of all tokens, one after the other: real bytes, never the GPT-2 alphabet and never
//                                  the U+2581 of SentencePiece (it is a space here); control tokens as their text
//   tokenizer.ends    i32 [V]      where each token ends in tokenizer.bytes
//   tokenizer.types   u8  [V]      0 normal, 1 control, 2 added by the user, 3 byte (its one byte), 4 unused, 5 unknown
//   tokenizer.scores  f32 [V]      kinds "spm" and "unigram" only
//   tokenizer.merges  i32 [M,2]    kind "bpe" only: left and right id, best rank first
//   metadata: tokenizer.kind text "bpe" | "spm" | "unigram" · tokenizer.split texts (regular expressions in PCRE2's syntax with
//             UTF and UCP on; each cuts every piece of the text before it into its matches and what lies between; bpe only)
//             tokenizer.bos, .unk, .pad integers (-1: none) · tokenizer.eos integers (ids that end a generation)
//             tokenizer.add_bos, .add_eos, .add_space_prefix, .ignore_merges, .clean_spaces integers 0|1
//             tokenizer.normalize text "none" | "nfc" | "nfkc"
#pragma once
