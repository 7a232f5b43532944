#!/usr/bin/env python3
"""Mistakes in the runtime, made one at a time in a copy of the tree; the tests must notice each of them.

    python3 tests/mutants/runtime.py                 all of them
    python3 tests/mutants/runtime.py NAME ...        some of them
    python3 tests/mutants/runtime.py --check         only that each text still stands in its file, once
    python3 tests/mutants/runtime.py --json FILE     the results as a document

The list is runtime.json: what stands in a file, what stands there instead, and which tests are to notice. The copy and its
build lie in a temporary folder, or in --work DIR, which is kept, so that a second run builds less. A test run that takes
longer than --limit seconds is a hang, and a hang is noticed. Exit code 1 if a mistake is not noticed, 2 if a text is not
there. Standard library only.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIST = pathlib.Path(__file__).with_name("runtime.json")
# Optimised dependencies, and of this package no more than what a quick rebuild allows.
QUICK = ["--config", "profile.release.package.gristmill.opt-level=1"]


def check(mistakes):
    """Texts that do not stand in their file exactly once."""
    faults = []
    for mistake in mistakes:
        count = (ROOT / mistake["file"]).read_text().count(mistake["before"])
        if count != 1:
            faults.append(f"{mistake['name']}: its text stands {count} times in {mistake['file']}")
    return faults


def copy_tree(target):
    """The tracked files, and those that git would track."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, to = ROOT / name, target / name
        if not source.is_file():
            continue
        # What did not change keeps its time, so that cargo builds it once.
        if to.is_file() and to.read_bytes() == source.read_bytes():
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)


def run(command, cwd, env, limit):
    """(exit code or None for a hang, output). What it started ends with it."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output


def cargo(extra, tests):
    return ["cargo", "test", "--release", *QUICK, *extra, *tests]


def attempt(tests, tree, env, limit):
    """(what became of it, the test that noticed)."""
    for selection in tests:
        options, _, names = selection.partition(" -- ")
        code, output = run(cargo(["--no-run"], options.split()), tree, env, 1800)
        if code != 0:
            return "does not compile", output.strip().splitlines()[-1] if output.strip() else ""
        code, output = run(cargo([], options.split()) + (["--", *names.split()] if names else []), tree, env, limit)
        failed = re.findall(r"^test (\S.*?) +\.\.\. FAILED", output, re.M)
        failed += re.findall(r"^    (\S+::\S+)$", output, re.M)
        if code is None:
            return "hang", selection
        if code != 0:
            names = list(dict.fromkeys(failed))
            return "caught", (names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")) if names else "abort"
    return "survived", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=240)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    mistakes = json.loads(LIST.read_text())
    faults = check(mistakes)
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    if args.check:
        print(f"{len(mistakes)} mistakes, each with its text")
        return 0
    chosen = [m for m in mistakes if not args.names or m["name"] in args.names]

    work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="gristmill-mistakes-"))
    tree = work / "tree"
    env = dict(os.environ, CARGO_TARGET_DIR=str(work / "target"), CARGO_INCREMENTAL="1", CARGO_TERM_COLOR="never")
    env.setdefault("GRISTMILL_REQUIRE_ADAPTER", "1")
    copy_tree(tree)
    every = list(dict.fromkeys(test for mistake in chosen for test in mistake["tests"]))
    print("with nothing broken ...", end=" ", flush=True)
    fate, test = attempt(every, tree, env, 4 * args.limit)
    print("passes" if fate == "survived" else f"{fate}: {test}", flush=True)
    if fate != "survived":
        return 2
    rows = []
    for mistake in chosen:
        start, file = time.monotonic(), tree / mistake["file"]
        text = file.read_text()
        try:
            file.write_text(text.replace(mistake["before"], mistake["after"]))
            fate, test = attempt(mistake["tests"], tree, env, args.limit)
        finally:
            file.write_text(text)
        seconds = round(time.monotonic() - start)
        rows.append({"name": mistake["name"], "file": mistake["file"], "fate": fate, "test": test, "seconds": seconds})
        print(f"{mistake['name']:<34} {fate:<9} {seconds:>4} s  {test}", flush=True)
    caught = sum(row["fate"] in ("caught", "hang") for row in rows)
    print(f"caught {caught} of {len(rows)}")
    if args.json:
        args.json.write_text(json.dumps({"caught": caught, "mistakes": rows}, indent=1) + "\n")
    if not args.work:
        shutil.rmtree(work)
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
