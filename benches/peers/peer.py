"""Where llama.cpp is, and what it makes of tokens."""

import json
import os
import shlex
import subprocess


def peers_dir():
    """Where the scripts of this folder put what they make."""
    repository = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    return os.path.normpath(os.path.join(repository, os.environ.get("CARGO_TARGET_DIR", "target"), "peers"))


def llama_cpp_dir(given=None):
    """Where build_llama_cpp.sh was told to build."""
    found = given or os.environ.get("LLAMA_CPP") or os.path.join(peers_dir(), "llama.cpp")
    if not os.path.isdir(os.path.join(found, "build", "bin")):
        raise SystemExit(f"no llama.cpp in {found}: run benches/peers/build_llama_cpp.sh {found}")
    return found


def llama_cpp_version(llama_cpp):
    """The package that it was built from."""
    with open(os.path.join(llama_cpp, "version"), encoding="utf-8") as file:
        return file.read().strip()


class Crash(Exception):
    """It died of a signal: its Vulkan backend does on some shapes."""


def run(command, text="", **environment):
    """What a command prints."""
    # llama.cpp passes software adapters over unless they are asked for.
    environment = {"GGML_VK_VISIBLE_DEVICES": "0", **os.environ, **environment}
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
    if done.returncode < 0:
        raise Crash(f"{shlex.join(command)}: signal {-done.returncode}")
    if done.returncode > 0:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr.strip()[-2000:]}\nexit code {done.returncode}")
    return done.stdout


def nll(llama_cpp, file, tokens, device="cpu"):
    """What llama_nll.c says of the tokens, on `cpu` or `vulkan`: `nll`, `top`, `gap`, `logits_last`."""
    command = [os.path.join(llama_cpp, "build", "bin", "llama_nll"), file, device, "--threads", str(os.cpu_count())]
    return json.loads(run(command, " ".join(map(str, tokens))))
