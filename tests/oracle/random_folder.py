"""Saves a GPT-2 with random weights as transformers does, with an expected.json next to it.

  python random_folder.py OUT_DIR --hidden 48 --heads 4 --dtype bf16 --shards
"""

import argparse
import os

import gpt2_oracle as oracle


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", metavar="OUT_DIR", help="a new or empty folder")
    parser.add_argument("--hidden", type=int, default=48)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=101)
    parser.add_argument("--inner", type=int, help="width of the MLP; default 4 * hidden")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--positions", type=int, default=80)
    parser.add_argument("--act", default="gelu_new", choices=["gelu_new", "gelu", "relu"])
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    parser.add_argument("--dtype", default="f32", choices=sorted(oracle.DTYPES))
    parser.add_argument("--prefix", default="yes", choices=["yes", "no"],
                        help="whether tensor names begin with `transformer.`")
    parser.add_argument("--shards", action="store_true", help="several files and an index")
    parser.add_argument("--old-buffers", action="store_true", help="add attn.bias and masked_bias")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.hidden % args.heads:
        parser.error("--hidden must be a multiple of --heads")
    if args.positions <= oracle.PROMPT_LEN:
        parser.error(f"--positions must be above {oracle.PROMPT_LEN}")
    if args.untied and args.prefix == "no":
        parser.error("--untied needs --prefix yes")
    if args.shards and args.old_buffers:
        parser.error("--old-buffers and --shards do not go together")
    if os.path.isdir(args.out_dir) and os.listdir(args.out_dir):
        parser.error(f"{args.out_dir} is not empty")
    return args


def shard_bytes(config, dtype):
    """A quarter of the model (the embedding may take more than that by itself)."""
    params = sum(p.numel() for p in oracle.new_model(config).parameters())
    return max(1, params * oracle.DTYPES[dtype].itemsize // 4)


def main():
    args = arguments()
    config = oracle.config_dict(
        args.hidden, args.heads, args.vocab, args.layers, args.positions,
        inner=args.inner, act=args.act, untied=args.untied,
    )
    result = oracle.make_folder(
        args.out_dir, config, args.seed, args.positions - args.positions // 8,
        dtype=args.dtype, prefix=args.prefix == "yes", old_buffers=args.old_buffers,
        shard_size=shard_bytes(config, args.dtype) if args.shards else None,
    )
    print(oracle.summary(result))


if __name__ == "__main__":
    main()
