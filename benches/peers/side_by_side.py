"""llama.cpp and gristmill side by side, on the same files: how fast, and how right.

  benches/peers/build_llama_cpp.sh
  cargo build --release --bin gristmill
  target/peers/llama.cpp/venv/bin/python benches/peers/side_by_side.py llama-125m:q4_0 llama-125m:f16 gpt2-124m:f16

A MODEL is SHAPE:TYPE, for random weights (SHAPES below; the types of make_gguf.py; `all` is each of them), or a GGUF file. One
table is printed, with a column for each engine and backend: llama.cpp's Vulkan backend and gristmill on the same adapter,
llama.cpp's CPU backend and gristmill's.

  ppN        tokens/s of reading N tokens at once, to the logits of the last
  tgN        tokens/s of writing N tokens one by one; gristmill's has the choice of the likeliest token in it, llama.cpp's has not
  tgN @ dD   the same after D tokens
  nll off    the largest difference of the nll at any of 200 positions from llama.cpp's CPU backend on the file's twin, the same
             numbers as f32. Its row for the file itself shows what its rounding of activations to 8 or 16 bits does
  top-1      of 64 tokens, how many are the likeliest to llama.cpp on the twin, after the same text. Gristmill's are those that
             it writes itself, greedily; llama.cpp's are its likeliest within the text that gristmill's CPU backend wrote

Tests are llama-bench's and `gristmill bench model`'s: no tokenizer, random ids, the same counts, keys and values in f16
(llama-bench knows no f32; agreement is with f32), the same threads, one process for each. Before the clock starts each has run:
gristmill the whole test, llama.cpp the prompt, or one token. The engines take turns and the order is reversed every other time. A figure is the median of the repetitions, in brackets its 95 % interval from their
order; a ratio is gristmill's rate over llama.cpp's, of pairs. With fewer than six repetitions an interval is their whole range,
and less sure than 95 %.

"crashed" is a process that died of a signal, as llama.cpp's Vulkan backend does for some shapes on llvmpipe.

Exit code 1 if gristmill's nll is off by more than 5e-3 anywhere, or it crashed.
"""

import argparse
import json
import math
import os
import re
import shlex
import statistics
import sys
import tempfile
import time

import peer

try:
    import gguf
    import make_gguf
    import numpy as np
    from make_gguf import Shape
except ImportError:
    # Speeds of files that are there already need neither of gguf and numpy.
    gguf = None

SHAPES = {} if gguf is None else {
    "llama-125m": Shape("llama", hidden=768, inner=2048, layers=12, heads=12, vocab=32000),
    "gpt2-124m": Shape("gpt2", hidden=768, inner=3072, layers=12, heads=12, vocab=50257, tied=True),
    # For agreement: rows of whole K-quant blocks, grouped heads, other widths.
    "llama": Shape("llama", hidden=512, inner=768, layers=2, heads=8, kv_heads=2, vocab=997, rope_base=20000.0),
    "qwen2": Shape("qwen2", hidden=256, inner=512, layers=3, heads=4, kv_heads=1, vocab=997, rope_base=1e6, tied=True, epsilon=1e-6),
    "qwen3": Shape("qwen3", hidden=768, inner=1024, layers=2, heads=8, kv_heads=2, head_dim=128, vocab=997, rope_base=1e6,
                   epsilon=1e-6),
    "gpt2": Shape("gpt2", hidden=256, inner=1024, layers=3, heads=4, vocab=997, tied=True),
}
LIMIT = 5e-3
SCORED, WRITTEN = 200, 64


class Engine:
    """One of the four columns."""

    def __init__(self, title, backend, args):
        self.title, self.backend, self.args = title, backend, args
        self.environment = None  # gristmill's own account of where it ran
        self.device = None


class Llama(Engine):
    def rates(self, file, tests):
        """(name of the test, tokens/s) of each."""
        place = ["-ngl", "99"] if self.backend == "gpu" else ["-ngl", "0", "-dev", "none", "-nopo", "1"]
        command = [os.path.join(self.args.llama_cpp, "build", "bin", "llama-bench"), "-m", file, *tests, *place, "-r", "1",
                   "-t", str(self.args.threads), "-ctk", "f16", "-ctv", "f16", "-o", "jsonl"]
        for row in map(json.loads, peer.run(command).splitlines()):
            self.device = row["gpu_info"]
            if not self.device and self.backend == "gpu" or row["devices"] != "none" and self.backend == "cpu":
                raise SystemExit(f"llama.cpp ran on {self.device or 'the CPU'}, not where it was told to")
            yield test_name(row), row["avg_ts"]

    def agreement(self, file, text, truth):
        """(largest difference of the nll, same top, of how many)."""
        said = peer.nll(self.args.llama_cpp, file, text.tokens, "vulkan" if self.backend == "gpu" else "cpu")
        same = sum(said["top"][i] == truth["top"][i] for i in text.written_after())
        return text.off(said["nll"], truth), same, len(text.written_after())


class Gristmill(Engine):
    def run(self, file, *command):
        place = ["--adapter", self.args.adapter] if self.args.adapter and self.backend == "gpu" else []
        if self.args.tuning and self.backend == "gpu":
            place += ["--tuning", self.args.tuning]
        command = [self.args.gristmill, *command, "--model", file, "--backend", self.backend, *place]
        return peer.run(command, RAYON_NUM_THREADS=str(self.args.threads))

    def rates(self, file, tests):
        """(name of the test, tokens/s) of each."""
        lines = self.run(file, "bench", "model", *tests, "-r", "1", "--kv", "f16", "-o", "jsonl").splitlines()
        for row in map(json.loads, lines):
            self.environment = row["environment"]
            self.device = self.environment["adapter"] and self.environment["adapter"]["name"]
            yield test_name(row), row["avg_ts"]

    def write(self, file, tokens):
        """What it writes after the tokens, taking the likeliest each time."""
        said = self.run(file, "generate", "--tokens", ids(tokens), "-n", str(WRITTEN), "--temperature", "0", "--ignore-eos",
                        "--json")
        return Text(tokens, json.loads(said)["tokens"])

    def agreement(self, file, text, truth):
        """(largest difference of the nll, same top, of how many), for a text that it wrote."""
        said = json.loads(self.run(file, "perplexity", "--tokens", ids(text.tokens[: text.scored]), "--json"))
        same = sum(text.tokens[i + 1] == truth["top"][i] for i in text.written_after())
        return text.off(said["nll"], truth), same, len(text.written_after())


class Text:
    """Tokens that are scored, and what was written after them."""

    def __init__(self, scored, written):
        self.scored, self.tokens = len(scored), [*scored, *written]

    def written_after(self):
        """The positions after which each written token came."""
        return range(self.scored - 1, len(self.tokens) - 1)

    def off(self, nll, truth):
        """The largest difference over the scored ones."""
        count = self.scored - 1
        return float(np.abs(np.subtract(nll[:count], truth["nll"][:count])).max())


def ids(tokens):
    return ",".join(map(str, tokens))


def test_name(row):
    name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return f"{name} @ d{row['n_depth']}" if row["n_depth"] else name


def interval(samples):
    """A median and its 95 % interval from the order of the samples, as src/bench/statistics.rs has it."""
    ordered, n = sorted(samples), len(samples)
    below = [sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n for k in range(n // 2)]
    cut = max(sum(chance <= 0.025 for chance in below) - 1, 0)
    return {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}


def ratios(ours, theirs):
    return interval([a / b for a, b in zip(ours, theirs, strict=True)])


def speed(file, engines, args, keep):
    """The samples of each engine, by test; none where llama.cpp crashed. `keep` hears of them after every repetition."""
    tests = {(f"pp{args.prompt}", f"tg{args.new}"): ["-p", str(args.prompt), "-n", str(args.new)]}
    if args.depth:
        tests[(f"tg{args.new} @ d{args.depth}",)] = ["-p", "0", "-n", str(args.new), "-d", str(args.depth)]
    samples = {engine.title: {name: [] for names in tests for name in names} for engine in engines}
    for repetition in range(args.repetitions):
        note(f"  repetition {repetition + 1} of {args.repetitions}")
        for engine in engines if repetition % 2 == 0 else engines[::-1]:
            of = samples[engine.title]
            for names, flags in tests.items():
                if any(of[name] is None for name in names):
                    continue
                try:
                    for name, rate in engine.rates(file, flags):
                        of[name].append(rate)
                except peer.Crash as crash:
                    note(f"  {crash}")
                    of.update(dict.fromkeys(names))
        keep(samples)


def agreement(file, twin, engines, args):
    """(largest difference of the nll, same top, of how many) of each engine, by title."""
    vocab, context = facts(file)
    scored = min(SCORED, context - WRITTEN)
    if scored < 2:
        raise SystemExit(f"{file}: a context of {context} is too short")
    tokens, truths, text, found = make_gguf.random_ids(scored, vocab, 1), {}, None, {}
    # Gristmill's first, the CPU backend before: its text is the one that llama.cpp is asked about.
    for engine in sorted(engines, key=lambda engine: (isinstance(engine, Llama), engine.backend)):
        note(f"  agreement of {engine.title}")
        own = engine.write(file, tokens) if isinstance(engine, Gristmill) else text
        text = text or own
        key = tuple(own.tokens)
        if key not in truths:
            truths[key] = peer.nll(args.llama_cpp, twin, own.tokens)
        try:
            found[engine.title] = engine.agreement(file, own, truths[key])
        except peer.Crash as crash:
            note(f"  {crash}")
            found[engine.title] = None
    return found


def facts(file):
    """(vocabulary, context) of a file."""
    reader = gguf.GGUFReader(file)
    arch = reader.fields["general.architecture"].contents()
    embedding = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    return int(embedding.shape[1]), int(reader.fields[f"{arch}.context_length"].contents())


def models(names, folder, args):
    """(name, file) of each; random ones are made when it is their turn."""
    for name in names:
        if os.path.isfile(name):
            yield os.path.basename(name), os.path.abspath(name)
            continue
        shape, _, kind = name.partition(":")
        kinds = [*make_gguf.TYPES, *make_gguf.MIXTURES] if kind == "all" else [kind.upper()]
        if shape not in SHAPES or any(kind not in make_gguf.TYPES and kind not in make_gguf.MIXTURES for kind in kinds):
            raise SystemExit(f"{name} is neither a file nor SHAPE:TYPE of {', '.join(SHAPES)} and make_gguf.py's types")
        for kind in kinds:
            file = os.path.join(folder, "model.gguf")
            make_gguf.make(file, SHAPES[shape], kind, 1, make_gguf.Ggml(args.llama_cpp))
            yield f"{shape} {kind}", file


def same_adapter(engines):
    """Refuses to compare two adapters."""
    names = {engine.title: engine.device for engine in engines if engine.backend == "gpu" and engine.device}
    if len(set(names.values())) > 1:
        raise SystemExit(f"not the same adapter: {names}; choose with GGML_VK_VISIBLE_DEVICES and --adapter")
    return next(iter(names.values()), None)


def measure(args):
    """Everything of every model, as one document."""
    backends = [backend for backend in ("gpu", "cpu") if backend not in args.without]
    places = {"gpu": "Vulkan", "cpu": "CPU"}
    engines = []
    for backend in backends:
        engines += [Llama(f"llama.cpp {places[backend]}", backend, args),
                    Gristmill(f"gristmill {'adapter' if backend == 'gpu' else 'CPU'}", backend, args)]
    document = {"settings": {name: getattr(args, name) for name in ("prompt", "new", "depth", "repetitions", "threads")},
                "llama_cpp": peer.llama_cpp_version(args.llama_cpp), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "environments": {}, "models": []}
    os.makedirs(peer.peers_dir(), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peer.peers_dir()) as folder:
        for name, file in models(args.model, folder, args):
            note(name)
            entry = {"name": name, "bytes": os.path.getsize(file)}
            document["models"].append(entry)

            def keep(samples, entry=entry):
                entry["tokens_per_s"] = samples
                document["adapter"] = same_adapter(engines)
                document["environments"] = {engine.backend: engine.environment for engine in engines if engine.environment}
                write(document, args.out)

            if "speed" not in args.without:
                speed(file, engines, args, keep)
            if "agreement" not in args.without:
                twin = os.path.join(folder, "twin.gguf")
                make_gguf.make_twin(file, twin)
                entry["agreement"] = agreement(file, twin, engines, args)
                os.remove(twin)
            write(document, args.out)
    return document


def write(document, out):
    """Whole at any moment: what ends a long run early does not take the pairs that it has."""
    if out:
        with open(out + ".part", "w", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
        os.replace(out + ".part", out)


def pairs(found):
    """(llama.cpp's, gristmill's) titles of one backend, where both were run."""
    for theirs, ours in (("llama.cpp Vulkan", "gristmill adapter"), ("llama.cpp CPU", "gristmill CPU")):
        if theirs in found:
            yield theirs, ours


def table(document):
    """The table as lines."""
    rows = []
    for model in document["models"]:
        speeds, agreements = model.get("tokens_per_s"), model.get("agreement")
        of = list(pairs(speeds or agreements))
        if not rows:
            rows.append(["", "", *(cell for theirs, ours in of for cell in (theirs, ours, "ratio"))])
        for test in next(iter(speeds.values())) if speeds else []:
            row = [model["name"], test]
            for theirs, ours in of:
                a, b = speeds[theirs][test], speeds[ours][test]
                row += [cell(interval(v)) if v else "crashed" for v in (a, b)] + [cell(ratios(b, a)) if a and b else ""]
            rows.append(row)
        for test, form in (("nll off", "{0:.1e}"), ("top-1", "{1}/{2}")) if agreements else ():
            row = [model["name"], test]
            for pair in of:
                row += [form.format(*agreements[title]) if agreements[title] else "crashed" for title in pair] + [""]
            rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for i, row in enumerate(rows):
        name = "" if i and row[0] == rows[i - 1][0] else row[0]
        lines.append("  ".join([name.ljust(widths[0]), row[1].ljust(widths[1]),
                                *(text.rjust(width) for text, width in zip(row[2:], widths[2:]))]).rstrip())
    return lines


def cell(estimate):
    return f"{digits(estimate['median'])} ({digits(estimate['low'])} to {digits(estimate['high'])})"


def digits(value):
    """Three significant digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def caption(document):
    settings = document["settings"]
    lines = [f"llama.cpp of {document['llama_cpp']}, threads: {settings['threads']}, {document['date']}; "
             "nll in nats, off from llama.cpp's CPU backend on the same numbers as f32"]
    if "adapter" in document:
        lines.append(f"{document['adapter'] or 'no adapter'}; tokens/s, keys and values in f16: medians and 95 % "
                     f"intervals of {settings['repetitions']} repetitions in turns")
    return lines


def record(document, folder, command):
    """Appends the speeds to FOLDER/<adapter>/<date>.jsonl, and writes the table beside it."""
    places = set()
    for backend, environment in document["environments"].items():
        name = environment["adapter"]["name"] if backend == "gpu" else "cpu"
        place = os.path.join(folder, re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
        os.makedirs(place, exist_ok=True)
        places.add(place)
        with open(os.path.join(place, f"{document['date'][:10]}.jsonl"), "a", encoding="utf-8") as file:
            for model in document["models"]:
                for line in peer_rows(model, backend, {**environment, "command": command}, document["llama_cpp"]):
                    file.write(json.dumps(line) + "\n")
    for place in places:
        with open(os.path.join(place, f"{document['date'][:10]}-side-by-side.txt"), "a", encoding="utf-8") as file:
            file.write("\n".join([command, *caption(document), *table(document), "", ""]))


def peer_rows(model, backend, environment, version):
    theirs, ours = ("llama.cpp Vulkan", "gristmill adapter") if backend == "gpu" else ("llama.cpp CPU", "gristmill CPU")
    on = "" if backend == "gpu" else f", threads: {environment['threads']}"
    for test, rates in model["tokens_per_s"][ours].items():
        others = model["tokens_per_s"][theirs][test]
        if not (rates and others):
            continue
        yield {
            "schema": "gristmill-bench/1", "environment": environment, "kind": "peer", "name": f"{model['name']}, {test}{on}",
            "peer": theirs.replace(" ", ", "), "peer_version": version, "unit": "tok/s", "ours": interval(rates),
            "theirs": interval(others), "ratio": ratios(rates, others), "our_samples": rates, "their_samples": others,
        }


def note(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="llama.cpp and gristmill side by side.")
    parser.add_argument("model", nargs="+", help=f"SHAPE:TYPE or a GGUF file; shapes: {', '.join(SHAPES)}")
    parser.add_argument("-p", "--prompt", type=int, default=64)
    parser.add_argument("-n", "--new", type=int, default=16)
    parser.add_argument("-d", "--depth", type=int, default=128, help="0: none")
    parser.add_argument("-r", "--repetitions", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--without", action="append", default=[], choices=["gpu", "cpu", "speed", "agreement"])
    parser.add_argument("--adapter", help="part of the name of gristmill's; GGML_VK_VISIBLE_DEVICES is llama.cpp's [0]")
    parser.add_argument("--tuning", metavar="FILE", help="of gristmill's kernels on the adapter")
    parser.add_argument("--gristmill", help="the command [target/release/gristmill]")
    parser.add_argument("--llama-cpp", help="the folder that build_llama_cpp.sh built in [$LLAMA_CPP, or target/peers/llama.cpp]")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON instead of the table")
    parser.add_argument("--out", help="write the JSON there as well, anew after every repetition")
    parser.add_argument("--record", metavar="FOLDER", help="append to the records, benches/record")
    args = parser.parse_args()
    if args.repetitions < (5 if args.record else 3):
        parser.error("at least three repetitions, and five for a record")
    if {"gpu", "cpu"} <= set(args.without) or {"speed", "agreement"} <= set(args.without):
        parser.error("nothing is left to measure")
    if gguf is None and ("agreement" not in args.without or not all(map(os.path.isfile, args.model))):
        parser.error("without gguf and numpy: GGUF files, and --without agreement")
    if args.record and "speed" in args.without:
        parser.error("a record is of speeds")
    args.repository = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    args.llama_cpp = os.path.abspath(peer.llama_cpp_dir(args.llama_cpp))
    args.gristmill = os.path.abspath(args.gristmill or os.path.join(peer.peers_dir(), "..", "release", "gristmill"))
    if not os.access(args.gristmill, os.X_OK):
        parser.error(f"no {args.gristmill}: cargo build --release --bin gristmill")

    document = measure(args)
    print(json.dumps(document) if args.json else "\n".join([*table(document), *caption(document)]))
    if args.record:
        names = [os.path.basename(name) for name in args.model]
        flags = ["-p", args.prompt, "-n", args.new, "-d", args.depth, "-r", args.repetitions, "--threads", args.threads]
        flags += [part for name in args.without for part in ("--without", name)]
        record(document, args.record, shlex.join(["benches/peers/side_by_side.py", *names, *map(str, flags)]))
    ours = [values for model in document["models"] for title, values in model.get("agreement", {}).items()
            if title.startswith("gristmill")]
    ours += [values for model in document["models"] for title, of in model.get("tokens_per_s", {}).items()
             for values in of.values() if values is None and title.startswith("gristmill")]
    if None in ours:
        raise SystemExit("gristmill crashed")
    worst = max((values[0] for values in ours), default=0)
    if not worst <= LIMIT:
        note(f"gristmill's nll is off by {worst:.1e}, more than {LIMIT}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
