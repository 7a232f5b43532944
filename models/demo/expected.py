#!/usr/bin/env python3
"""Write expected.json: what transformers computes, in f32, from the saved f16 weights.

    pip install torch transformers safetensors
    python expected.py
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
PROMPT = "A reference is"
NEW_TOKENS = 200

# The text whose logits are recorded, cut to 32 tokens.
LOGITS_TEXT = (
    "A reference is like a pointer in that it's an address we can follow to access the data "
    "stored at that address; that data is owned by some other variable."
)

# A text for the per-token loss, written for this file and so in no training data; cut to 120 tokens.
NLL_TEXT = (
    "A function that takes ownership of a value is responsible for dropping it. If the caller "
    "still needs the value afterwards, it can pass a reference instead, or it can make a copy "
    "with the `clone` method. The compiler checks at every call that no reference outlives the "
    "value it points to, and it reports an error when two mutable references to the same value "
    "would be in use at the same time. Threads follow the same rules: a value can be sent to "
    "another thread only if its type implements the `Send` trait."
)


def rounded(values, digits=6):
    return [float(f"{value:.{digits}g}") for value in values]


def logits_record(model, tokenizer):
    """The top 5 at every position, and the whole vocabulary at the last."""
    ids = tokenizer.encode(LOGITS_TEXT)[:32]
    logits = model(torch.tensor([ids])).logits[0]
    top = logits.topk(5)
    return {
        "ids": ids,
        "top5_ids": top.indices.tolist(),
        "top5_logits": [rounded(row) for row in top.values.tolist()],
        "last_logits": rounded(logits[-1].tolist()),
    }


def nll_record(model, tokenizer):
    """nll[i] is the loss of ids[i + 1] given ids[..= i], in nats."""
    ids = tokenizer.encode(NLL_TEXT)[:120]
    logits = model(torch.tensor([ids])).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    return {"text": tokenizer.decode(ids), "ids": ids, "nll": rounded(nll.tolist()),
            "mean": rounded([nll.mean().item()])[0]}


def greedy_record(model, tokenizer, prompt_ids):
    """Greedy ids, and by how much each beat the second best token."""
    output = model.generate(
        torch.tensor([prompt_ids]), attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=NEW_TOKENS, min_new_tokens=None, do_sample=False, use_cache=True,
        eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    ids = output.sequences[0, len(prompt_ids):].tolist()
    gaps = []
    for step in output.logits:
        best, second = step[0].topk(2).values.tolist()
        gaps.append(best - second)
    return {"ids": ids, "gaps": rounded(gaps), "text": tokenizer.decode(ids)}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--out", type=Path, default=HERE / "expected.json")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    prompt_ids = tokenizer.encode(PROMPT)
    record = {
        "prompt": PROMPT,
        "prompt_ids": prompt_ids,
        "logits": logits_record(model, tokenizer),
        "nll": nll_record(model, tokenizer),
        "greedy": greedy_record(model, tokenizer, prompt_ids),
    }
    args.out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{args.out.name}: {args.out.stat().st_size} bytes; mean nll {record['nll']['mean']}; "
          f"smallest greedy gap {min(record['greedy']['gaps'])}")
    print(PROMPT + record["greedy"]["text"])


if __name__ == "__main__":
    main()
