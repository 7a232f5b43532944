"""The parts of cpu_gpt2.sh that are not shell.

  make FOLDER                     a random GPT-2 small in f16: FOLDER as transformers saves it, and FOLDER.gguf
  tokens N                        N token ids, comma-separated
  note ENGINE RUNS                adds the rates of one run, read from stdin, to the file RUNS
  report RUNS OUT VERSION COMMIT  prints the table and appends the record to OUT
"""

import json
import math
import os
import statistics
import sys
import time

VOCAB, CONTEXT, HIDDEN, HEADS, LAYERS = 50257, 1024, 768, 12, 12


def weights():
    """(name, array) of every tensor, as the checkpoint has them: matrices of layers are [in, out]."""
    import numpy as np

    random = np.random.default_rng(7)

    def normal(*shape, deviation=0.02):
        return (deviation * random.standard_normal(shape, dtype=np.float32)).astype(np.float16)

    def norm(name):
        yield f"{name}.weight", (1 + normal(HIDDEN)).astype(np.float16)
        yield f"{name}.bias", normal(HIDDEN)

    yield "wte.weight", normal(VOCAB, HIDDEN)
    yield "wpe.weight", normal(CONTEXT, HIDDEN, deviation=0.01)
    for layer in range(LAYERS):
        at = f"h.{layer}"
        for name in ("ln_1", "ln_2"):
            yield from norm(f"{at}.{name}")
        for name, inputs, outputs in (
            ("attn.c_attn", HIDDEN, 3 * HIDDEN),
            ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", HIDDEN, 4 * HIDDEN),
            ("mlp.c_proj", 4 * HIDDEN, HIDDEN),
        ):
            yield f"{at}.{name}.weight", normal(inputs, outputs)
            yield f"{at}.{name}.bias", normal(outputs)
    yield from norm("ln_f")


def gguf_name(name):
    """llama.cpp's name of a tensor."""
    parts = {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    }
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("h."):
        _, layer, stem = stem.split(".", 2)
        return f"blk.{layer}.{parts[stem]}.{kind}"
    return f"{parts[stem]}.{kind}"


def make(folder):
    import gguf
    import numpy as np
    from safetensors.numpy import save_file

    tensors = dict(weights())
    os.makedirs(folder, exist_ok=True)
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB, "n_positions": CONTEXT,
        "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": None, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "bos_token_id": 50256, "eos_token_id": 50256,
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    named = {f"transformer.{name}": value for name, value in tensors.items()}
    save_file(named, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})

    writer = gguf.GGUFWriter(f"{folder}.partial", "gpt2")
    writer.add_name("random GPT-2 small")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(4 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(VOCAB)
    for name, value in tensors.items():
        # [out, in]; vectors and positions in f32, as llama.cpp's own converter writes them.
        if value.ndim == 2 and name.startswith("h."):
            value = np.ascontiguousarray(value.T)
        if value.ndim == 1 or name.startswith("wpe"):
            value = value.astype(np.float32)
        writer.add_tensor(gguf_name(name), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(f"{folder}.partial", f"{folder}.gguf")


def note(engine, runs):
    if engine == "gristmill":
        timings = json.load(sys.stdin)["timings"]
        rates = {"prompt": timings["prompt_tokens_per_s"], "decode": timings["decode_tokens_per_s"]}
    else:
        rates = {}
        for line in filter(str.strip, sys.stdin):
            row = json.loads(line)
            rates["prompt" if row["n_prompt"] else "decode"] = row["avg_ts"]
    with open(runs, "a", encoding="utf-8") as file:
        file.write(json.dumps({"engine": engine, **rates}) + "\n")


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        facts = dict(line.split(":", 1) for line in file if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    instructions = [name for name in ("avx512f", "avx2", "avx") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'unknown')} ({', '.join(instructions[:1])})"


def report(runs, out, version, commit):
    with open(runs, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    settings = {name: int(os.environ[name]) for name in ("THREADS", "PROMPT", "NEW")}
    print(f"GPT-2 small, random f16 weights, {settings['THREADS']} threads, {processor()}")
    print(f"{'tokens/s':22}{'gristmill':>26}{'llama.cpp':>26}{'ratio':>8}")
    records = []
    for phase, count in (("prompt", settings["PROMPT"]), ("decode", settings["NEW"])):
        ours, theirs = ([row[phase] for row in rows if row["engine"] == engine] for engine in ("gristmill", "llama.cpp"))
        ratio = interval([a / b for a, b in zip(ours, theirs)])
        cells = [f"{e['median']:.1f} ({e['low']:.1f} to {e['high']:.1f})" for e in map(interval, (ours, theirs))]
        print(f"{phase + ' of ' + str(count):22}{cells[0]:>26}{cells[1]:>26}{ratio['median']:8.2f}")
        records.append({
            "schema": "gristmill-bench/1",
            "environment": {
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": " ".join(f"{name}={value}" for name, value in settings.items()) + " benches/peers/cpu_gpt2.sh",
                "version": "0.1.0", "commit": commit, "os": "linux x86_64", "processor": processor(),
                "threads": settings["THREADS"], "backend": "cpu", "adapter": None,
            },
            "kind": "peer", "name": f"GPT-2 small, random f16 weights, {phase} of {count}", "peer": "llama.cpp, CPU",
            "peer_version": version, "unit": "tok/s", "ours": interval(ours), "theirs": interval(theirs), "ratio": ratio,
            "our_samples": ours, "their_samples": theirs,
        })
    print(f"medians and 95 % intervals of {len(rows) // 2} runs each, in turns")
    with open(out, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def interval(samples):
    """A median and its 95 % interval from the order of the samples, as src/bench/statistics.rs has it."""
    ordered, n = sorted(samples), len(samples)
    below = [sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n for k in range(n // 2)]
    cut = max(sum(chance <= 0.025 for chance in below) - 1, 0)
    return {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}


def main():
    command, *args = sys.argv[1:]
    if command == "tokens":
        print(",".join(str(i * 7919 % VOCAB) for i in range(int(args[0]))))
    else:
        {"make": make, "note": note, "report": report}[command](*args)


if __name__ == "__main__":
    main()
