"""Runs code where the package cannot be imported, as with those who are given a checkpoint and have transformers alone.

A new Python takes seconds to import transformers. So one that has done so stays until the tests end, and each piece of
code runs in a fork of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

SERVER = """
import json, os, sys, traceback

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trimformer":
            raise ImportError("trimformer is not installed here")

sys.meta_path.insert(0, Blocker())
import torch
import transformers.generation
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, dynamic_module_utils, pipeline
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        dynamic_module_utils.HF_MODULES_CACHE = job["modules"]
        scope = {"given": job["given"]}
        try:
            exec(job["code"], scope)
            answer = {"found": scope["found"]}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        with open(job["answer"], "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that is forked; it ends with the tests, when nothing more can come to its input."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def without_the_package(code: str, given: Any, folder: Path) -> Any:
    """Run code that reads `given` and sets `found`, both as JSON has them, and give what it found.

    Args:
        code: Python.
        given: what it is about.
        folder: a test's own; code that checkpoints bring is copied there.
    """
    server, answer = _server(), folder / "answer.json"
    job = {"code": code, "given": given, "modules": str(folder / "modules"), "answer": str(answer)}
    assert server.stdin
    assert server.stdout
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    assert server.stdout.readline() == "done\n", "the Python without the package has ended"
    told = json.loads(answer.read_text())
    assert "error" not in told, told["error"]
    return told["found"]
