"""Prune a tiny model of every architecture, load it in fresh processes, and write the table of docs/architectures.md.

    python tests/support_table.py [name …]

By hand, some minutes: each model is pruned by Surgeon to half its FLOPs, cut by random masks with an empty first
attention, saved, and loaded twice: by a process that has the package, and by one that has only what is in the folder.
Without names the table in the docs is written anew; with names of tiny models their rows are printed.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

import trimformer
from tiny_models import ALL_HEADS, CONFIGS, inputs, is_causal, main_head, outputs, random_masks, tiny_model
from trimformer import Budget, plugins
from trimformer.model.description import Attention
from trimformer.model.masking import masked
from trimformer.model.structure import find_architecture, read_structure
from trimformer.model.surgery import cut

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
BEGIN, END = "<!-- made by tests/support_table.py -->", "<!-- end of what is made -->"
TOLERANCE = 1e-5
NEW_TOKENS = 6
CHECKS = ("cut = masked", "loads", "without the package", "generates")
ASKED_FOR = (
    *("t5", "bart", "mbart", "pegasus", "m2m_100", "deberta", "xlnet", "xlm", "flaubert", "funnel", "convbert"),
    *("squeezebert", "ibert", "longformer", "mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3", "mamba", "rwkv"),
    *("clip", "siglip", "vit", "dinov2", "whisper", "wav2vec2", "gemma3", "gemma4", "qwen2_vl", "llama4", "phimoe"),
)
"""Other model types that people ask for; those that cannot be pruned yet are listed with the table."""

LOADING = """
import json, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file, save_file
folder, trusted = Path(sys.argv[1]), sys.argv[2] == "alone"
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
if not trusted:
    import trimformer
found = {}
for path in sorted(folder.iterdir()):
    about = json.loads((path / "about.json").read_text())
    batch = load_file(path / "batch.safetensors")
    auto = getattr(transformers, about["auto_class"])
    model = auto.from_pretrained(path / "model", trust_remote_code=trusted).eval()
    with torch.no_grad():
        values = [value for value in model(**batch).values() if torch.is_tensor(value)]
        if about["generates"]:
            first = {name: tensor[:1] for name, tensor in batch.items()}
            values.append(model.generate(**first, max_new_tokens=NEW_TOKENS, do_sample=False).float())
    seen = {str(place): value.contiguous() for place, value in enumerate(values)}
    save_file(seen, path / f"{sys.argv[2]}.safetensors")
assert ("trimformer" in sys.modules) != trusted
"""


@dataclass
class Row:
    """What was seen of one tiny model."""

    name: str
    unit: str = ""
    uniform: str = ""
    head: str = ""
    surgeon: str = ""
    masked: float = float("nan")
    loaded: str = ""
    alone: str = ""
    generates: str = ""


def make(name: str, folder: Path) -> Row:
    """Prune a tiny model, compare it with the masked one, and save it with what it computes."""
    head = "language model" if is_causal(name) else main_head(name)
    dense = tiny_model(name, head)
    structure, batch = read_structure(dense), inputs(dense)
    row = Row(name, head=head, unit=unit_of(dense), uniform=uniform_of(dense))
    rows = [{"input_ids": batch["input_ids"][index, :length].tolist()} for index, length in enumerate((11, 4, 7))] * 4
    result = trimformer.prune(dense, rows, budget=Budget(flops=0.5), calibration_tokens=None)
    row.surgeon = f"{result.facts.budget.reached:.0%}"
    masks = random_masks(structure)
    masks[next(site.name for site in structure if site.attends)][:] = False
    with masked(structure, masks):
        expected = outputs(dense, batch)
    small = cut(read_structure(copy.deepcopy(dense)), masks).model
    row.masked = float((outputs(small, batch) - expected).abs().max())
    (folder / name).mkdir()
    trimformer.save(small, folder / name / "model")
    save_file(batch, folder / name / "batch.safetensors")
    save_file(seen(small, batch, generates=head == "language model"), folder / name / "expected.safetensors")
    about = {"auto_class": ALL_HEADS[head][0], "generates": head == "language model"}
    (folder / name / "about.json").write_text(json.dumps(about))
    return row


@torch.no_grad()
def seen(model: PreTrainedModel, batch: dict[str, Tensor], *, generates: bool) -> dict[str, Tensor]:
    """What a model computes and generates, as a fresh process will."""
    values = [value for value in model(**batch).values() if torch.is_tensor(value)]
    if generates:
        first = {name: tensor[:1] for name, tensor in batch.items()}
        values.append(model.generate(**first, max_new_tokens=NEW_TOKENS, do_sample=False).float())
    return {str(place): value.contiguous() for place, value in enumerate(values)}


def unit_of(model: PreTrainedModel) -> str:
    """What a unit of attention is."""
    structure = read_structure(model)
    (chain,) = structure.architecture.chains
    attention = next(each for each in chain.sublayers if isinstance(each, Attention))
    site = next(site for site in structure if site.attends)
    if attention.tied:
        return "all heads of a layer"
    if attention.multi_query:
        return "query head"
    return "key/value group" if site.query_heads > 1 else "head"


def uniform_of(model: PreTrainedModel) -> str:
    """What the class can have fewer of in all layers alike."""
    stock = find_architecture(model.config).stock.values()
    kinds = [plural for kind, plural in (("head", "heads"), ("neuron", "neurons")) if kind in stock]
    return " and ".join(kinds) or "no"


def load(folder: Path, how: str) -> None:
    """Load all models of a folder in a fresh process, with the package or alone."""
    script = f"NEW_TOKENS = {NEW_TOKENS}\n{LOADING}"
    environment = os.environ | {"HF_MODULES_CACHE": str(folder.parent / "modules")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(folder), how], check=True, env=environment)


def compare(row: Row, folder: Path) -> None:
    """Note whether what was loaded computes and generates the same."""
    expected = load_file(folder / row.name / "expected.safetensors")
    for how in ("loaded", "alone"):
        found = load_file(folder / row.name / f"{how}.safetensors")
        off = max(float((found[place].float() - expected[place].float()).abs().max()) for place in expected)
        setattr(row, how, "yes" if off <= TOLERANCE else f"off by {off:.1g}")
    row.generates = "yes" if row.head == "language model" else "–"


def is_refused(model_type: str) -> bool:
    """Whether transformers has a model type that no architecture describes."""
    try:
        config = AutoConfig.for_model(model_type)
    except (ValueError, KeyError):
        return False
    return find_architecture(config) is None


def table(rows: list[Row]) -> str:
    """The rows in Markdown, and below them what is refused."""
    columns = ("`model_type`", "unit of attention", "`--uniform`", "Surgeon at 50 %", *CHECKS)
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        kind, _, variant = row.name.partition(" ")
        same = "yes" if row.masked <= TOLERANCE else f"off by {row.masked:.1g}"
        name = f"`{kind}`{f' {variant}' if variant else ''}"
        cells = (name, row.unit, row.uniform, row.surgeon, same, row.loaded, row.alone, row.generates)
        lines.append(f"| {' | '.join(cells)} |")
    types = len({row.name.partition(" ")[0] for row in rows})
    refused = [f"`{name}`" for name in ASKED_FOR if is_refused(name)]
    about = (
        f"{types} model types, as tiny models with random weights; equal means to {TOLERANCE:g}. transformers "
        f"{transformers.__version__}, torch {torch.__version__.split('+')[0]}."
    )
    others = textwrap.wrap(f"{', '.join(refused)}.", 138)
    return "\n".join([about, "", *lines, "", "Refused in one line, before any work, among others:", *others])


def main() -> None:
    """Try all tiny models, or those named, and write or print the table."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    names = sys.argv[1:] or list(CONFIGS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "models"
        folder.mkdir()
        rows = [make(name, folder) for name in names]
        for how in ("loaded", "alone"):
            load(folder, how)
        for row in rows:
            compare(row, folder)
    text = table(rows)
    missing = set(plugins.names("architectures")) - {row.name.partition(" ")[0] for row in rows}
    if sys.argv[1:] or missing:
        sys.stdout.write(f"{text}\nmissing: {', '.join(sorted(missing))}\n")
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
