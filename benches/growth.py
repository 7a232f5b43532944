#!/usr/bin/env python3
"""How cost grows: of a written token with its context, of a prompt with its length.

  cargo build --release --bin gristmill
  benches/growth.py --record benches/record

What should come out: a token takes a time that is linear in its context, by the keys and values that it reads; a prompt takes
one that is quadratic in attention alone, and linear in all else. What does come out is fitted and printed, and with --record
goes to FOLDER/<adapter>/<date>-growth.json, .txt and .svg, each with the adapter, its driver, the commit and the command.

The model is random and small (growth.json), so that attention is most of the work early on and a processor ends in minutes.
Tokens are timed by the wall, as `bench model` does; prompts by the device's clock, kernel by kernel (`--profile`). Bandwidth and
peak are what the probes of `bench kernels` reach on the same adapter in the same run.
"""

import argparse
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

CONFIG = "benches/growth.json"
# From here on a prompt is blocks of the size that the engine reads at once, and a fit of exponents means something.
FITTED_FROM = 256


def gristmill(args, *words):
    """The records that a command of gristmill keeps."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "records.jsonl")
        place = ["--adapter", args.adapter] if args.adapter else []
        command = [args.gristmill, "bench", *words, *place, "--out", out]
        print(shlex.join(["gristmill", *command[1:-2]]), file=sys.stderr, flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=args.repository)
        with open(out, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def line_through(points):
    """Least squares: intercept, slope, the slope's standard error, R^2."""
    n = len(points)
    mean_x, mean_y = (sum(p[i] for p in points) / n for i in (0, 1))
    xx = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / xx
    intercept = mean_y - slope * mean_x
    left = sum((y - intercept - slope * x) ** 2 for x, y in points)
    total = sum((y - mean_y) ** 2 for _, y in points)
    error = math.sqrt(left / max(1, n - 2) / xx)
    return {"intercept": intercept, "slope": slope, "slope_error": error, "r2": 1 - left / total if total else 1.0}


def exponent(points):
    """Of y = c x^e: the fit of the logarithms."""
    fit = line_through([(math.log(x), math.log(y)) for x, y in points])
    return {"exponent": fit["slope"], "error": fit["slope_error"], "factor": math.exp(fit["intercept"]), "r2": fit["r2"]}


def numbers(values):
    return ",".join(map(str, values))


def decode(args, config, kv, limits):
    """Seconds of a token at each context, the line through them, and what the slope is of the device's ceilings."""
    # Round after round, so that what else the machine does at a time falls on all contexts.
    repetitions = math.ceil(args.repetitions / args.rounds)
    records = gristmill(args, "model", "--random", CONFIG, "--kv", kv, "-p", "0", "-n", str(args.new),
                        "-d", numbers(args.contexts * args.rounds), "-r", str(repetitions))
    found = {}
    for row in records:
        # The mean of what the tokens look at: the first at all before it and itself.
        context = row["n_depth"] + (row["n_gen"] + 1) / 2
        found.setdefault(context, []).extend(ns / 1e9 / row["n_gen"] for ns in row["samples_ns"])
    points = [(context, statistics.median(seconds)) for context, seconds in found.items()]
    ranges = [(min(seconds), max(seconds)) for seconds in found.values()]
    fit = line_through(points)
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    kv_width = width // config["num_attention_heads"] * config["num_key_value_heads"]
    bytes_each = 2 * (4 if kv == "f32" else 2) * kv_width * layers
    flops_each = 4 * width * layers
    return {"kv": kv, "points": points, "ranges": ranges, "fit": fit, "bytes_per_position": bytes_each,
            "gb_per_s": bytes_each / fit["slope"] / 1e9, "of_bandwidth": bytes_each / fit["slope"] / 1e9 / limits["gb_per_s"],
            "gflops": flops_each / fit["slope"] / 1e9, "of_peak": flops_each / fit["slope"] / 1e9 / limits["gflops"]}


def prefill(args):
    """Seconds of a prompt's attention and of all else by the device's clock, and how they grow."""
    records = gristmill(args, "model", "--random", CONFIG, "-p", numbers(args.prompts * args.rounds), "-n", "0", "-d", "0", "-r", "1", "--profile")
    found = {}
    for row in records:
        if row["kind"] == "profile":
            is_attention = [op["op"].startswith("attention") for op in row["rows"]]
            parts = [sum(op["seconds"] for op, is_it in zip(row["rows"], is_attention) if is_it == wanted) for wanted in (True, False)]
            found.setdefault(row["n_prompt"], []).append(parts)
    if not found:
        return None
    series = {}
    for i, name in enumerate(("attention", "all else")):
        points = [(n, statistics.median(parts[i] for parts in found[n])) for n in sorted(found)]
        large = [p for p in points if p[0] >= FITTED_FROM]
        steps = [math.log(b[1] / a[1]) / math.log(b[0] / a[0]) for a, b in zip(points, points[1:])]
        series[name] = {"points": points, "steps": steps, "fit": exponent(large if len(large) > 1 else points)}
    return series


def measure(args):
    with open(os.path.join(args.repository, CONFIG), encoding="utf-8") as file:
        config = json.load(file)
    ceilings = gristmill(args, "kernels", "--op", "add", "-r", "7")
    limits = {"gb_per_s": max(row["peak_gb_per_s"] for row in ceilings), "gflops": max(row["peak_gflops"] for row in ceilings)}
    environment = {**ceilings[0]["environment"], "command": args.command}
    return {"environment": environment, "model": config, "ceilings": limits,
            "decode": [decode(args, config, kv, limits) for kv in ("f32", "f16")], "prefill": prefill(args)}


def where(document):
    environment = document["environment"]
    adapter = environment["adapter"]
    software = ", software: no GPU's speed" if adapter["software"] else ""
    return [f"{adapter['name']}, {adapter['driver']}{software}; {environment['processor']}",
            f"{environment['date']}, commit {environment['commit']}: {environment['command']}"]


def text(document):
    limits, model = document["ceilings"], document["model"]
    lines = [*where(document),
             f"a random {model['model_type']}: {model['num_hidden_layers']} layers, {model['hidden_size']} wide, "
             f"{model['num_attention_heads']} heads; probes reach {limits['gb_per_s']:.1f} GB/s and {limits['gflops']:.0f} GFLOP/s", ""]
    for part in document["decode"]:
        fit = part["fit"]
        lines += [f"a token, keys and values in {part['kv']}: {1e3 * fit['intercept']:.2f} ms + {1e6 * fit['slope']:.3f} "
                  f"(+- {1e6 * fit['slope_error']:.3f}) us x context, R^2 {fit['r2']:.4f}",
                  f"  {part['bytes_per_position']} bytes a position at that slope: {part['gb_per_s']:.2f} GB/s, "
                  f"{100 * part['of_bandwidth']:.0f} % of the bandwidth; {part['gflops']:.2f} GFLOP/s, {100 * part['of_peak']:.0f} % of the peak"]
        for (x, y), (low, high) in zip(part["points"], part["ranges"]):
            off = y / (fit["intercept"] + fit["slope"] * x) - 1
            lines.append(f"  context {x:6.1f}  {1e3 * y:7.2f} ms ({1e3 * low:.2f} to {1e3 * high:.2f}), {100 * off:+.1f} % off the line")
        lines.append("")
    if document["prefill"] is None:
        lines.append("no prompts: this adapter has no clock for single dispatches")
        return lines
    for name, part in document["prefill"].items():
        fit = part["fit"]
        lines.append(f"a prompt's {name}: tokens^{fit['exponent']:.2f} (+- {fit['error']:.2f}) from {FITTED_FROM} on, R^2 {fit['r2']:.4f}")
        for (x, y), step in zip(part["points"], [None, *part["steps"]]):
            lines.append(f"  {x:5} tokens  {1e3 * y:8.2f} ms" + (f", tokens^{step:.2f} since the last" if step is not None else ""))
    return lines


class Panel:
    """A plot with axes, at a place of a page."""

    WIDTH, HEIGHT = 380, 300

    def __init__(self, left, title, labels, x_range, y_range, logarithmic=False):
        self.left, self.top, self.logarithmic = left, 60, logarithmic
        self.x_range, self.y_range = x_range, y_range
        self.parts = [f'<text x="{left}" y="{self.top - 14}" font-weight="bold">{title}</text>',
                      f'<rect x="{left}" y="{self.top}" width="{self.WIDTH}" height="{self.HEIGHT}" fill="none" stroke="#888"/>',
                      f'<text x="{left + self.WIDTH / 2}" y="{self.top + self.HEIGHT + 36}" text-anchor="middle">{labels[0]}</text>',
                      f'<text transform="translate({left - 44} {self.top + self.HEIGHT / 2}) rotate(-90)" text-anchor="middle">{labels[1]}</text>']
        self.keys = 0

    def at(self, x, y):
        scale = math.log if self.logarithmic else float
        (x0, x1), (y0, y1) = ([scale(v) for v in r] for r in (self.x_range, self.y_range))
        return self.left + (scale(x) - x0) / (x1 - x0) * self.WIDTH, self.top + (1 - (scale(y) - y0) / (y1 - y0)) * self.HEIGHT

    def ticks(self, xs, ys):
        for x in xs:
            px, _ = self.at(x, self.y_range[0])
            self.parts.append(f'<path d="M{px:.1f} {self.top}v{self.HEIGHT}" stroke="#e4e4e4"/>'
                              f'<text x="{px:.1f}" y="{self.top + self.HEIGHT + 16}" text-anchor="middle">{x:g}</text>')
        for y in ys:
            _, py = self.at(self.x_range[0], y)
            self.parts.append(f'<path d="M{self.left} {py:.1f}h{self.WIDTH}" stroke="#e4e4e4"/>'
                              f'<text x="{self.left - 6}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')

    def series(self, key, colour, points, line, dashed=False):
        """Points, and a line through two others."""
        (ax, ay), (bx, by) = (self.at(*p) for p in line)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="M{ax:.1f} {ay:.1f}L{bx:.1f} {by:.1f}" stroke="{colour}" fill="none"{dash}/>')
        for x, y in points:
            px, py = self.at(x, y)
            self.parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>')
        y = self.top + 18 + 16 * self.keys
        self.keys += 1
        self.parts.append(f'<path d="M{self.left + 10} {y - 4}h18" stroke="{colour}"{dash}/><text x="{self.left + 34}" y="{y}">{key}</text>')


def round_ticks(highest, count=5):
    """Multiples of 1, 2 or 5 and a power of ten, up to what is no less than the highest."""
    raw = highest / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    return [round(step * i, 12) for i in range(math.ceil(highest / step) + 1)]


def escaped(line):
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def svg(document):
    parts = document["decode"]
    xs = round_ticks(max(x for part in parts for x, _ in part["points"]))
    ys = round_ticks(1.35e3 * max(y for part in parts for _, y in part["points"]))
    left = Panel(60, "a token", ("context, tokens", "ms"), (0, xs[-1]), (0, ys[-1]))
    left.ticks(xs, ys)
    for part, colour in zip(parts, ("#1f5fa8", "#b8561b")):
        fit = part["fit"]
        end = part["points"][-1][0]
        line = [(x, 1e3 * (fit["intercept"] + fit["slope"] * x)) for x in (0, end)]
        key = f"{part['kv']}: {1e3 * fit['intercept']:.2f} ms + {1e6 * fit['slope']:.2f} us x context, R&#178; {fit['r2']:.4f}"
        left.series(key, colour, [(x, 1e3 * y) for x, y in part["points"]], line)
        bound = part["bytes_per_position"] / document["ceilings"]["gb_per_s"] / 1e9
        line = [(x, 1e3 * (fit["intercept"] + bound * x)) for x in (0, end)]
        left.series(f"{part['kv']}, if its keys and values came at the probe's bandwidth", colour, [], line, dashed=True)
    panels = [left]
    if document["prefill"]:
        points = [p for part in document["prefill"].values() for p in part["points"]]
        lengths = sorted({x for x, _ in points})
        decades = [10.0 ** d for d in range(math.floor(math.log10(min(1e3 * y for _, y in points))),
                                            math.ceil(math.log10(max(2e3 * y for _, y in points))) + 1)]
        right = Panel(540, "a prompt, by the device's clock", ("tokens", "ms"), (lengths[0], lengths[-1]), (decades[0], decades[-1]), True)
        right.ticks(lengths, decades)
        for (name, part), colour in zip(document["prefill"].items(), ("#a8221f", "#4b7a2a")):
            fit = part["fit"]
            line = [(x, 1e3 * fit["factor"] * x ** fit["exponent"]) for x in (max(FITTED_FROM, lengths[0]), lengths[-1])]
            right.series(f"{name}: tokens^{fit['exponent']:.2f}", colour, [(x, 1e3 * y) for x, y in part["points"]], line)
        panels.append(right)
    caption = [f'<text x="16" y="{422 + 16 * i}" fill="#444">{escaped(line)}</text>' for i, line in enumerate(where(document))]
    return "\n".join(['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 460" width="960" height="460" '
                      'font-family="sans-serif" font-size="11">', '<rect width="960" height="460" fill="#fff"/>',
                      *(part for panel in panels for part in panel.parts), *caption, "</svg>", ""])


def write(document, folder):
    environment = document["environment"]
    place = os.path.join(folder, re.sub(r"[^a-z0-9]+", "-", environment["adapter"]["name"].lower()).strip("-"))
    os.makedirs(place, exist_ok=True)
    stem = os.path.join(place, f"{environment['date'][:10]}-growth")
    for extension, content in (("json", json.dumps(document, indent=1) + "\n"), ("txt", "\n".join(text(document)) + "\n"), ("svg", svg(document))):
        with open(f"{stem}.{extension}", "w", encoding="utf-8") as file:
            file.write(content)
    print(f"wrote {stem}.json, .txt, .svg", file=sys.stderr)


def main():
    lengths = lambda words: sorted({int(word) for word in words.split(",")})
    parser = argparse.ArgumentParser(description="How cost grows with the context and with the prompt.")
    parser.add_argument("--contexts", type=lengths, default=[0, 256, 512, 1024, 2048, 3072, 4000], metavar="N,..")
    parser.add_argument("--prompts", type=lengths, default=[64, 128, 256, 384, 512, 768, 1024], metavar="N,..")
    parser.add_argument("-n", "--new", type=int, default=16, help="tokens written at each context")
    parser.add_argument("-r", "--repetitions", type=int, default=9, help="of the tokens at each context, in all rounds")
    parser.add_argument("--rounds", type=int, default=3, help="in which all contexts and prompts take their turns")
    parser.add_argument("--adapter", help="part of the adapter's name")
    parser.add_argument("--gristmill", help="the command [target/release/gristmill]")
    parser.add_argument("--record", metavar="FOLDER", help="write the json, the text and the plot there")
    args = parser.parse_args()
    if len(args.contexts) < 3 or len(args.prompts) < 2:
        parser.error("at least three contexts and two prompts")
    args.repository = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    args.gristmill = os.path.abspath(args.gristmill or os.path.join(
        args.repository, os.environ.get("CARGO_TARGET_DIR", "target"), "release", "gristmill"))
    args.command = shlex.join(["benches/growth.py", "--contexts", numbers(args.contexts), "--prompts", numbers(args.prompts),
                               "-n", str(args.new), "-r", str(args.repetitions), "--rounds", str(args.rounds)])
    document = measure(args)
    print("\n".join(text(document)))
    if args.record:
        write(document, args.record)


if __name__ == "__main__":
    main()
