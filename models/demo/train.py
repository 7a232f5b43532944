#!/usr/bin/env python3
"""Train the demo model: a small GPT-2 that writes Rust-documentation-flavoured English.

The corpus is the prose of the documentation that `rustup` installs with a toolchain
(`rustup component add rust-docs`). The script extracts it, trains a byte-level BPE
tokenizer and a GPT-2 on it, and writes a Hugging Face model folder with f16 weights.

    pip install torch transformers tokenizers safetensors numpy
    python train.py

The learning rate is constant and falls linearly over the last `--decay` steps. A first
Ctrl-C (or SIGTERM) starts that descent at once, so that the run equals one with fewer
`--steps`; a second one stops at once. The model is saved at every evaluation.
"""

import argparse
import hashlib
import json
import math
import re
import signal
import subprocess
import time
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
END_OF_TEXT = "<|endoftext|>"

# Folders of share/doc/rust/html. In `std` only the doc comments are taken.
BOOKS = [
    "book", "rust-by-example", "reference", "nomicon", "cargo", "rustc", "rustdoc", "clippy",
    "edition-guide", "embedded-book", "style-guide", "error_codes", "unstable-book", "std",
]
# Translations, superseded editions, generated lists and pages about CPU intrinsics.
SKIPPED_FOLDERS = {
    "es", "ja", "ko", "zh", "first-edition", "second-edition", "2018-edition",
    "intrinsics", "simd", "arch", "compiler-flags", "language-features", "library-features",
}
SKIPPED_FILES = {"print.html", "toc.html", "404.html", "all.html", "searchindex.html"}


# --- Corpus ---------------------------------------------------------------------------


class ProseExtractor(HTMLParser):
    """Collects the headings, paragraphs and list items inside the chosen container."""

    BLOCKS = {"p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "div", "section", "blockquote"}
    SKIPPED = {"pre", "table", "script", "style", "svg", "button", "nav", "figcaption", "sup"}
    SKIPPED_CLASSES = {
        "rule", "grammar-container", "grammar-railroad", "file-name", "filename", "caption",
        "example-wrap", "buttons", "tooltip", "test-link", "footnote-definition", "anchor", "doc-anchor",
    }
    VOID = {"br", "img", "hr", "input", "wbr", "meta", "link", "source", "path", "rect", "col"}

    def __init__(self, container):
        super().__init__()
        self.container = container  # ("main", None) or ("div", "docblock")
        self.blocks = []
        self.text = ""
        self.prefix = ""
        self.stack = []  # open elements: (tag, is container, is skipped)
        self.inside = 0
        self.skipping = 0

    def end_block(self):
        text = " ".join(self.text.split())
        if text:
            self.blocks.append(self.prefix + text)
            self.prefix = ""
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag in self.VOID:
            return
        classes = set((dict(attrs).get("class") or "").split())
        name, class_name = self.container
        is_container = tag == name and (class_name is None or class_name in classes)
        is_skipped = tag in self.SKIPPED or bool(classes & self.SKIPPED_CLASSES)
        self.stack.append((tag, is_container, is_skipped))
        self.inside += is_container
        self.skipping += is_skipped
        if not self.inside or self.skipping:
            return
        if tag in self.BLOCKS:
            self.end_block()
            if tag == "li":
                self.prefix = "* "
            elif tag[0] == "h" and tag[1:].isdigit():
                self.prefix = "#" * int(tag[1:]) + " "
            elif tag != "p":
                self.prefix = ""
        elif tag == "code":
            self.text += "`"

    def handle_endtag(self, tag):
        if not any(open_tag == tag for open_tag, _, _ in self.stack):
            return
        while self.stack:
            open_tag, is_container, is_skipped = self.stack.pop()
            if self.inside and not self.skipping:
                if open_tag in self.BLOCKS or is_container:
                    self.end_block()
                elif open_tag == "code":
                    self.text += "`"
            self.inside -= is_container
            self.skipping -= is_skipped
            if open_tag == tag:
                break

    def handle_data(self, data):
        if self.inside and not self.skipping:
            self.text += data


TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "−": "-",
                            "…": "...", "→": "->", "⇒": "=>", "×": "x", "≤": "<=", "≥": ">="})


def to_ascii(text):
    """Plain ASCII: emoji and the like go, so the model never writes half a character."""
    text = unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY))
    return text.encode("ascii", "ignore").decode().strip()


def without_introductions(blocks):
    """Drops the sentences that introduce a listing, which is not there, with a colon."""
    for block, following in zip(blocks, blocks[1:] + [""]):
        if block.endswith(":") and not following.startswith("* "):
            sentences, _, introduction = block.rpartition(". ")
            block = sentences + "." if sentences else ""
        if block:
            yield block


def drop_empty_headings(blocks):
    """Without code listings many headings ("Examples") have nothing below them."""
    kept = []
    for block in reversed(blocks):
        is_heading = block.startswith("#")
        if is_heading and (not kept or kept[-1].startswith("#")
                           and len(kept[-1].split()[0]) <= len(block.split()[0])):
            continue
        kept.append(block)
    return kept[::-1]


def page_text(path, is_std, seen):
    html = path.read_text(encoding="utf-8")
    extractor = ProseExtractor(("div", "docblock") if is_std else ("main", None))
    extractor.feed(html)
    blocks = []
    for block in extractor.blocks:
        block = to_ascii(block)
        if block.startswith("#"):
            if re.fullmatch(r"#+ ?(Examples?:?)?", block):
                continue
        else:
            # The docs of u8, u16, ... repeat one text with other numbers.
            key = re.sub(r"\b[iuf]?\d+\b", "0", block.lower())
            if key in seen:
                continue
            seen.add(key)
        blocks.append(block)
    text = ""
    for block in drop_empty_headings(list(without_introductions(blocks))):
        in_list = block.startswith("* ") and text.rpartition("\n")[2].startswith("* ")
        text += ("\n" if in_list else "\n\n") + block
    return text.strip()


def build_corpus(docs, min_words):
    """Returns {page: text}; no paragraph occurs twice."""
    pages, seen = {}, set()
    for book in BOOKS:
        words = count = 0
        for path in sorted((docs / book).rglob("*.html")):
            relative = path.relative_to(docs)
            if path.name in SKIPPED_FILES or SKIPPED_FOLDERS & set(relative.parts):
                continue
            text = page_text(path, book == "std", seen)
            if len(text.split()) >= min_words:
                pages[str(relative)] = text
                words += len(text.split())
                count += 1
        print(f"{book:16} {count:5} pages {words:8} words", flush=True)
    return pages


def is_held_out(page, percent):
    digest = hashlib.sha256(page.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def write_words(texts, path):
    words = set()
    for text in texts:
        words.update(re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower()))
    path.write_text("".join(f"{word}\n" for word in sorted(words) if len(word) <= 24))
    return len(words)


# --- Tokenizer ------------------------------------------------------------------------


def train_tokenizer(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer, texts):
    """One stream of tokens: every page is preceded by the end-of-text token."""
    stream = []
    for encoding in tokenizer.encode_batch(texts):
        stream.append(0)
        stream.extend(encoding.ids)
    stream.append(0)
    return torch.tensor(stream)


# --- Training -------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by Newton-Schulz iterations, in f32."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = self.orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)

    @staticmethod
    def orthogonalise(x):
        transposed = x.shape[0] > x.shape[1]
        x = x.T if transposed else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T if transposed else x


def batches(stream, length, batch_size, generator):
    """Endless batches; every epoch cuts the stream at another offset and shuffles."""
    queue = []
    while True:
        while len(queue) < batch_size:
            offset = torch.randint(length, (1,), generator=generator).item()
            starts = torch.arange(offset, len(stream) - length, length)
            queue.extend(starts[torch.randperm(len(starts), generator=generator)].tolist())
        starts, queue = queue[:batch_size], queue[batch_size:]
        yield torch.stack([stream[s:s + length + 1] for s in starts])


def batch_loss(model, batch):
    logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, stream, length, limit=None):
    model.eval()
    starts = list(range(0, len(stream) - length, length))
    if limit:
        starts = starts[::max(1, len(starts) // limit)][:limit]
    losses = [batch_loss(model, torch.stack([stream[s:s + length + 1] for s in starts[i:i + 8]])).item()
              * len(starts[i:i + 8]) for i in range(0, len(starts), 8)]
    model.train()
    return sum(losses) / len(starts)


def learning_rate(step, steps, warmup, decay):
    """Relative to the peak: linear warm-up, constant, linear descent."""
    return min(1.0, step / warmup, (steps - step + 1) / decay)


def save_model(model, folder):
    """Hugging Face layout, f16. The head is tied to the embedding and not stored."""
    tensors = {name: tensor.detach().half().contiguous()
               for name, tensor in model.state_dict().items()
               if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    c = model.config
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": c.vocab_size,
        "n_positions": c.n_positions,
        "n_ctx": c.n_positions,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_inner": None,
        "layer_norm_epsilon": c.layer_norm_epsilon,
        "attn_pdrop": c.attn_pdrop,
        "embd_pdrop": c.embd_pdrop,
        "resid_pdrop": c.resid_pdrop,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_tokenizer(tokenizer, folder, length):
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="share/doc/rust/html of a toolchain (default: rustc's)")
    parser.add_argument("--out", type=Path, default=HERE, help="model folder to write")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--decay", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--matrix-lr", type=float, default=4e-3, help="peak rate of the weight matrices")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak rate of everything else")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--held-out-percent", type=int, default=4)
    parser.add_argument("--min-words", type=int, default=40, help="shorter pages are left out")
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    docs = args.docs
    if docs is None:
        sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        docs = Path(sysroot) / "share/doc/rust/html"
    pages = build_corpus(docs, args.min_words)
    train_texts = [text for page, text in pages.items() if not is_held_out(page, args.held_out_percent)]
    held_texts = [text for page, text in pages.items() if is_held_out(page, args.held_out_percent)]
    distinct = write_words(pages.values(), args.out / "words.txt")

    tokenizer = train_tokenizer(train_texts, args.vocab)
    save_tokenizer(tokenizer, args.out, args.length)
    train_stream, held_stream = encode(tokenizer, train_texts), encode(tokenizer, held_texts)
    print(f"{len(pages)} pages, {sum(len(t.split()) for t in pages.values())} words, {distinct} distinct; "
          f"{len(train_stream)} training tokens, {len(held_stream)} held-out tokens "
          f"({len(held_texts)} pages)", flush=True)

    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=args.length, n_embd=args.width,
        n_layer=args.layers, n_head=args.heads, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.0, embd_pdrop=args.dropout, resid_pdrop=args.dropout,
        activation_function="gelu_pytorch_tanh",  # the same function as gelu_new, but faster
    ))
    print(f"{model.num_parameters()} parameters", flush=True)

    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
    embeddings = [model.transformer.wte.weight, model.transformer.wpe.weight]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [
        Muon(matrices, lr=args.matrix_lr, weight_decay=args.weight_decay),
        torch.optim.AdamW([{"params": embeddings, "weight_decay": args.weight_decay},
                           {"params": vectors, "weight_decay": 0.0}],
                          lr=args.lr, betas=(0.9, 0.95)),
    ]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]

    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: signals.append(True))

    steps, step = args.steps, 0
    curve, recent, began = [], [], time.time()
    feed = batches(train_stream, args.length, args.batch, torch.Generator().manual_seed(args.seed))
    model.train()
    while step < steps and len(signals) < 2:
        step += 1
        if signals and steps == args.steps:
            steps = min(steps, step + args.decay)
            print(f"descending: {steps} steps in all", flush=True)
        for group, peak in zip(groups, peaks):
            group["lr"] = peak * learning_rate(step, steps, args.warmup, args.decay)
        loss = batch_loss(model, next(feed))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        last = step == steps or len(signals) > 1
        if step % args.eval_every == 0 or last:
            limit = None if last else 40
            curve.append({"step": step, "train": round(float(np.mean(recent)), 4),
                          "held_out": round(held_out_loss(model, held_stream, args.length, limit), 4)})
            recent = []
            rate = step * args.batch * args.length / (time.time() - began)
            print(f"step {step} train {curve[-1]['train']} held-out {curve[-1]['held_out']} "
                  f"{rate:.0f} tokens/s {(time.time() - began) / 60:.1f} min", flush=True)
            save_model(model, args.out)
            (args.out / "loss.json").write_text(json.dumps(curve, indent=1) + "\n")
    print(f"held-out perplexity {math.exp(curve[-1]['held_out']):.2f}")


if __name__ == "__main__":
    main()
