"""Small vocabularies in GGUF files, hard strings, and the ids that llama.cpp makes of them.

  python tokenizer_oracle.py                     remakes tests/oracle/tokenizers, from what the text is by then
  python tokenizer_oracle.py --check             compares the stored ids with what llama.cpp makes of the stored files
  python tokenizer_oracle.py --others OUT FILE.. writes OUT/expected.json for other GGUF files, whole models or vocabularies:
                                                 GRISTMILL_TOKENIZERS=OUT cargo test --release --test tokenizers
                                                 With FILE.gguf.inp beside it, as llama.cpp has them, its strings are added.

The vocabularies are trained here, on text of this repository: `PRE.gguf`, byte-level BPE whose words are cut by PRE's
expressions; `spm.gguf`, SentencePiece's BPE with bytes for what is no piece, user-defined and control pieces;
`ties.gguf`, a made one of its kind with equal scores, pieces whose characters are no pieces, and unused pieces.
`expected.json`: `strings`, and for each file in `files` the `ids` of each, BOS and EOS as the file says, special tokens
parsed; `specials`, the names of control and user-defined tokens.

llama.cpp is the reference, through the bindings of `llama-cpp-python` (LLAMA_CPP_LIB_PATH names the folder of another
libllama, LLAMA_CPP_VERSION its version if the bindings are no package). `tokenizers` and `sentencepiece`, where the vocabularies were trained, are a second opinion: the strings on
which they differ are printed.

Needs `pip install llama-cpp-python tokenizers sentencepiece gguf`; see `versions` for what the stored files come from.
"""

import argparse
import ctypes
import importlib.metadata
import io
import json
import os
import random

import gguf
import sentencepiece
import tokenizers
from tokenizers import Regex, pre_tokenizers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
HERE = os.path.join(ROOT, "tests", "oracle", "tokenizers")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}|", r"\p{N}|")
QWEN35 = QWEN2.replace(r"\p{L}+|", r"[\p{L}\p{M}]+|").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
# The expressions of each name, as models' own tokenizer.json files and llama.cpp's src/llama-vocab.cpp have them.
PRE = {
    "gpt-2": [GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "smollm": [r"\p{N}", GPT2],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
# Control and user-defined tokens of every vocabulary that is trained here.
CONTROLS = ["<|begin|>", "<|end_of_turn|>"]
USERS = ["<tool>", "  \n", "grist<mill"]

STRINGS = [
    "", " ", "  ", "   ", "     ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\t\n", "\r", "\r\n", "\r\n\r\n", "\n\r", " \n", "\n ",
    "  \r\n  ", "\u00a0", "\u3000\u3000a", "a\u2028b\u2029c", "\u0085", "x\u0085\u0085y", "\u200b", "\x0b\x0c\x1c\x1f", "a  b", "a   b",
    "a \tb", "a\t\tb", "a \n b", "a \n\n  b", "  lead", "\nlead", " trail ", "trail  ", "trail\n", "trail \n ", "  if x:\n    y\n",
    "the mill grinds", "The Mill", " the mill", "THE MILL", "millstone-millstone", "Hello, world! How's it going?",
    "it's it'S IT'S we've WE'VE WE'Ve I'm I'M you'll YOU'LL he'd HE'D they're THEY'RE don't DON'T",
    "'s", "''s", "'", "'''", "' s", "'\u017f", "o'clock 'twas 'til", "'s's't're've", "it\u2019s",
    "1", "12", "123", "1234", "12345", "123456", "1234567890", " 1", " 12 123 1234", "1,234,567.89", "3.14e-10", "a1b22c333d4444",
    "0x7fff", "\u0661\u0662\u0663\u0664", "\u00bd\u00b2\u2167", "12\u0e53\u0e54", "$1.00 +2 <3 =4 >5 ^6 ~7 |8 `9",
    "!", "!!", " !", " !!!", "...", " ... ", "a.b.c", "a...b", "(a)[b]{c}", "#!/bin/sh\n", "//! \\n \"quoted\"", "!\n\n", ".\r\n.", "-\n-",
    "fn main() {\n\tlet x = vec![0u8; 16];\n}\n", "https://example.org/a?b=c&d=%20", "a_b__c", "x=y+z;",
    "\u78e8", "\u78e8\u7c89\u5de5\u5834", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u3053\u3093\u306b\u3061\u306f", "\uc548\ub155\ud558\uc138\uc694", "mix\u78e8mix 12\u78e8",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u05e9\u05dc\u05d5\u05dd",
    "M\u00fchle", "Mu\u0308hle", "\u00e9", "e\u0301", "\u0301", "a\u0301\u0302\u0303b", " \u0301a", "\u1e9b\u0323", "\ufb01ne", "\u0130\u0131\u00df", "\u212b\u00c5A\u030a",
    "\U0001f600", " \U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f\u200d\U0001f525", "\U0001d4d0\U0001d7d9",
    "\u0378", "a\u0378b \u0378", "\ue000", "\U000e0001", "\U0010ffff", "\ufffd", "\ufffe\uffff",
    "\x00", "a\x00b", " \x00 ", "\x00\x00\x00", "\ufeff", "\ufeffa", "a\ufeff", "\x7f\x01\x02",
    "mill" * 75, "x" * 300, " " * 300, " " * 100 + "x", "\n" * 100, "ab" * 150, "\u78e8" * 60, "1" * 100, "=" * 100, "a b " * 40,
    "\u2581", "\u2581\u2581", "a\u2581b", " \u2581 ", "\u2581the mill", "<0x41>", "a<0x0A>b", "<0x", "<0x4", "<0x41", "<0xZZ>", "\u0120the\u010a",
    "<|begin|>", "<|begin|><|begin|>", "a<|begin|>b", "a <|begin|> b", "<|begin|>the", " <|begin|>", "<|end_of_turn|>\n", "x<|end_of_turn|>",
    "<|begin", "<|begin|", "|begin|>", "<|", "<|begin|<|begin|>", "<<|begin|>>", "<tool>", "<tool>x</tool>", "a <tool> b", "<tool", "grist<mill>",
    "grist<mil", "a  \nb", "   \n", "  \n  \n", "<s>", "</s>", "<unk>", "<s>a</s>", "<pad>", "[EMPTY_3]",
    " whole", "the whole mill", "whole wholes",
    "abab baab", "abcabc", "cccc", "aabbcc", "dadada", "eee", "fgfgf", "\u00e9\u00e9x\u00e9", "ab\u78e8ab",
]


# Takes llama.cpp's log.
QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def corpus():
    """Text to train on: prose, Rust, shaders, and what they have little of."""
    text = []
    for name in ["README.md", "CHANGELOG.md", "src/error.rs", "src/model/tokenizer.rs", "shaders/softmax.wgsl"]:
        path = os.path.join(ROOT, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text.append(file.read())
    text += STRINGS
    return "\n".join(text)


def writer(path, model, tokens, kinds, scores=None):
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("vocabulary")
    # What llama.cpp asks of any file.
    out.add_context_length(64)
    out.add_embedding_length(32)
    out.add_block_count(1)
    out.add_feed_forward_length(32)
    out.add_head_count(1)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model(model)
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    if scores is not None:
        out.add_token_scores(scores)
    return out


def finish(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def splitter(expressions):
    cuts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def write_bpe(folder, pre):
    """Trains and writes `pre`.gguf; returns the trained tokenizer."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer = splitter(PRE[pre])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = CONTROLS + USERS
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=alphabet, special_tokens=specials, show_progress=False)
    made.train_from_iterator([corpus()], trainer)
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [CONTROL if t in CONTROLS else USER_DEFINED if t in USERS else NORMAL for t in tokens]
    # A token that no merges lead to: only whole words find it.
    tokens.append("\u0120whole" if pre == "llama-bpe" else "[PAD]")
    kinds.append(NORMAL if pre == "llama-bpe" else UNUSED)
    out = writer(os.path.join(folder, f"{pre}.gguf"), "gpt2", tokens, kinds)
    out.add_tokenizer_pre(pre)
    out.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    out.add_bos_token_id(0)
    out.add_eos_token_id(1)
    # `llama-bpe` is left to its default.
    if pre == "qwen2":
        out.add_add_bos_token(False)
    if pre == "gpt-2":
        out.add_add_eos_token(True)
    finish(out)
    return lambda text: made.encode(text, add_special_tokens=False).ids


def write_spm(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in corpus().split("\n") if "\0" not in line), model_writer=model,
        model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.998,
        control_symbols=CONTROLS, user_defined_symbols=[u for u in USERS if "\n" not in u], num_threads=1,
        minloglevel=2)
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = [made.id_to_piece(i) for i in range(len(made))]
    kinds = [UNKNOWN if made.is_unknown(i) else CONTROL if made.is_control(i) else BYTE if made.is_byte(i) else
             USER_DEFINED if token in USERS else NORMAL for i, token in enumerate(tokens)]
    # llama.cpp's converter gives user-defined pieces blanks for U+2581.
    tokens = [token.replace("\u2581", " ") if kind == USER_DEFINED else token for token, kind in zip(tokens, kinds)]
    out = writer(os.path.join(folder, "spm.gguf"), "llama", tokens, kinds,
                 [made.get_score(i) for i in range(len(made))])
    out.add_bos_token_id(made.bos_id())
    out.add_eos_token_id(made.eos_id())
    out.add_unk_token_id(made.unk_id())
    finish(out)
    return made.encode


def write_ties(folder):
    """Random pieces of few letters, in four scores; `d`, `e` and the umlaut are no pieces of their own."""
    rng = random.Random(5)
    tokens, kinds, scores = ["<unk>", "<s>", "</s>"], [UNKNOWN, CONTROL, CONTROL], [0.0, 0.0, 0.0]
    for byte in range(256):
        tokens.append(f"<0x{byte:02X}>")
        kinds.append(BYTE)
        scores.append(0.0)
    pieces = {"a", "b", "c", "f", "g", "\u2581", "ab\u78e8", "\u00e9\u00e9", "x\u00e9"}
    while len(pieces) < 120:
        pieces.add("".join(rng.choice("abcdefg\u2581") for _ in range(rng.randint(2, 5))))
    for piece in sorted(pieces):
        tokens.append(piece)
        kinds.append(rng.choice([NORMAL, NORMAL, NORMAL, UNUSED]))
        scores.append(rng.choice([-1.0, -2.0, -2.5, -0.0, 0.0]))
    out = writer(os.path.join(folder, "ties.gguf"), "llama", tokens, kinds, scores)
    out.add_add_space_prefix(False)
    out.add_add_eos_token(True)
    finish(out)
    return None


def random_strings():
    """Strings for ties.gguf."""
    rng = random.Random(6)
    return ["".join(rng.choice("abcdefg  ") for _ in range(rng.randint(1, 24))) for _ in range(60)]


def reference(path, strings):
    """The ids that llama.cpp makes of each string."""
    import llama_cpp

    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p())
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)
    found = []
    for text in strings:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), True, True)
        assert count >= 0, (path, text)
        found.append(list(room[:count]))
    llama_cpp.llama_model_free(model)
    return found


def specials(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents() if "tokenizer.ggml.token_type" in fields else []
    return [token for token, kind in zip(tokens, kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]


def save(folder, strings, files):
    """`files`: the path of each GGUF file, as it is to be written."""
    rows = [{"file": name, "specials": specials(os.path.join(folder, name)),
             "ids": reference(os.path.join(folder, name), strings)} for name in files]
    names = ["llama-cpp-python", "tokenizers", "sentencepiece", "gguf"]
    found = {"strings": strings, "files": rows, "versions": {name: version(name) for name in names}}
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(found, separators=(",", ":")).replace('{"file"', '\n{"file"') + "\n")
    return found


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return os.environ.get("LLAMA_CPP_VERSION", "not installed as a package")


def make(folder):
    os.makedirs(folder, exist_ok=True)
    second = {f"{pre}.gguf": write_bpe(folder, pre) for pre in PRE}
    second["spm.gguf"] = write_spm(folder)
    second["ties.gguf"] = write_ties(folder)
    strings = STRINGS + random_strings()
    found = save(folder, strings, list(second))
    for row in found["files"]:
        opinion = second[row["file"]]
        if opinion is None:
            continue
        ends = (row["ids"][0][:1], []) if row["file"] != "gpt-2.gguf" else ([], [1])
        same, different = 0, []
        for text, ids in zip(strings, row["ids"]):
            ids = ids[len(ends[0]):len(ids) - len(ends[1])]
            if any(name in text for name in row["specials"]):
                continue
            same += ids == opinion(text)
            different += [] if ids == opinion(text) else [text]
        print(f"{row['file']}: the second opinion agrees on {same} strings, and differs on {different}")


def check():
    with open(os.path.join(HERE, "expected.json"), encoding="utf-8") as file:
        expected = json.load(file)
    for row in expected["files"]:
        same = reference(os.path.join(HERE, row["file"]), expected["strings"]) == row["ids"]
        print(f"{row['file']}: {'equal' if same else 'DIFFERENT'}")


def others(folder, paths):
    os.makedirs(folder, exist_ok=True)
    strings = list(STRINGS)
    for path in paths:
        if os.path.exists(path + ".inp"):
            with open(path + ".inp", encoding="utf-8", newline="") as file:
                strings += file.read().split("\n__ggml_vocab_test__\n")
    save(folder, list(dict.fromkeys(strings)), [os.path.abspath(path) for path in paths])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored ids")
    parser.add_argument("--others", nargs="+", metavar="PATH", help="OUT FILE..: the ids of other files")
    args = parser.parse_args()
    if args.check:
        check()
    elif args.others:
        others(args.others[0], args.others[1:])
    else:
        make(HERE)


if __name__ == "__main__":
    main()
