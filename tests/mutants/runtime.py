#!/usr/bin/env python3
"""Mistakes in the runtime, made one at a time in a copy of the tree; the tests must notice each of them.

    python3 tests/mutants/runtime.py                 all of them
    python3 tests/mutants/runtime.py NAME ...        some of them
    python3 tests/mutants/runtime.py --check         only that each text still stands in its file, once
    python3 tests/mutants/runtime.py --json FILE     the results as a document

The list is runtime.json: what stands in a file, what stands there instead (as an expression or as statements), and which
tests are to notice. All of them are compiled into one copy of the tree, each behind a question which of them is on, so that
it is built once; every test run has one mistake, named by an environment variable, or, at first, none. The copy and its
build lie in a temporary folder, or in --work DIR, which is kept. A test run that takes longer than --limit seconds is a
hang, and a hang is noticed. Exit code 1 if a mistake is not noticed, 2 if a text is not there. Standard library only.
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
# Which mistake is on, from 1.
SWITCH = """
#[doc(hidden)]
pub(crate) fn mistake(number: usize) -> bool {
    static ON: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    *ON.get_or_init(|| std::env::var("GRISTMILL_MISTAKE").ok()?.parse().ok()) == Some(number)
}
"""


def check(mistakes):
    """Texts that do not stand in their file exactly once."""
    faults = []
    for mistake in mistakes:
        count = (ROOT / mistake["file"]).read_text().count(mistake["before"])
        if count != 1:
            faults.append(f"{mistake['name']}: its text stands {count} times in {mistake['file']}")
    return faults


def copy_tree(target, mistakes):
    """The files that git tracks or would track, with every mistake in them, switched off."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, to = ROOT / name, target / name
        if not source.is_file():
            continue
        content = source.read_bytes()
        here = [(number, m) for number, m in enumerate(mistakes, 1) if m["file"] == name]
        if here or name == "src/lib.rs":
            text = content.decode()
            if name == "src/lib.rs":
                text = "#![allow(warnings)]\n" + text + SWITCH
            for number, mistake in here:
                either = f"if crate::mistake({number}) {{ {mistake['after']} }} else {{ {mistake['before']} }}"
                text = text.replace(mistake["before"], f"({either})" if mistake["expression"] else either)
            content = text.encode()
        # What did not change keeps its time, so that cargo builds it once.
        if not to.is_file() or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)


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


def cargo(selection, names=()):
    return ["cargo", "test", "--release", *selection.split(), *(["--", *names] if names else [])]


def attempt(tests, number, tree, env, limit):
    """(what became of it, the test that noticed)."""
    env = dict(env, GRISTMILL_MISTAKE=str(number))
    for selection in tests:
        target, _, names = selection.partition(" -- ")
        # kernels takes one name, which may have spaces; the others take several.
        names = [names] if "kernels" in target else names.split()
        code, output = run(cargo(target, names), tree, env, limit)
        failed = re.findall(r"^test (\S.*?) +\.\.\. FAILED", output, re.M)
        failed = list(dict.fromkeys(failed))
        if code is None:
            return "hang", selection
        if code != 0:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            return "caught", failed[0] + more if failed else output.strip().splitlines()[-1]
        if not re.search(r"test result: ok\. [1-9]", output):
            return "no test ran", selection
    return "survived", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=150)
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
    env = dict(os.environ, CARGO_TARGET_DIR=str(work / "target"), CARGO_TERM_COLOR="never")
    env.setdefault("GRISTMILL_REQUIRE_ADAPTER", "1")
    copy_tree(tree, mistakes)
    every = list(dict.fromkeys(test for mistake in chosen for test in mistake["tests"]))
    for target in dict.fromkeys(test.partition(" -- ")[0] for test in every):
        if subprocess.run([*cargo(target), "--quiet", "--no-run"], cwd=tree, env=env).returncode != 0:
            return 2
    fate, test = attempt(every, 0, tree, env, len(every) * args.limit)
    if fate != "survived":
        print(f"with nothing broken: {fate}: {test}", file=sys.stderr)
        return 2
    rows = []
    for number, mistake in enumerate(mistakes, 1):
        if mistake not in chosen:
            continue
        start = time.monotonic()
        fate, test = attempt(mistake["tests"], number, tree, env, args.limit)
        seconds = round(time.monotonic() - start)
        rows.append({"name": mistake["name"], "file": mistake["file"], "fate": fate, "test": test, "seconds": seconds})
        print(f"{mistake['name']:<44} {fate:<9} {seconds:>4} s  {test}", flush=True)
    caught = sum(row["fate"] in ("caught", "hang") for row in rows)
    print(f"caught {caught} of {len(rows)}")
    if args.json:
        args.json.write_text(json.dumps({"caught": caught, "mistakes": rows}, indent=1) + "\n")
    if not args.work:
        shutil.rmtree(work)
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
