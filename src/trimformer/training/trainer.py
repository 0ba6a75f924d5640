"""Transformers' `Trainer`, fed by a task: padded batches with labels, its own loss where it has one, its metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trimformer.data.batches import length_sorted_indices, pad
from trimformer.data.labels import IGNORED, pad_labels
from trimformer.data.rows import Batch, Features
from trimformer.errors import InvalidOption, require_range, unknown_name
from trimformer.judging.evaluation import inference
from trimformer.judging.metrics import Metric, Metrics
from trimformer.judging.statistics import mean, metric
from trimformer.judging.task import OwnLoss, Task
from trimformer.observing.predictions import predictions, task_loss
from trimformer.progress import Progress
from trimformer.pruning.method_options import read_option

KNOWS_STRATEGIES = "train_sampling_strategy" in {field.name for field in fields(TrainingArguments)}
"""Whether transformers has more than two ways to draw training rows: 5.0 has not."""
BY_LENGTH: Mapping[str, Any] = (
    {"train_sampling_strategy": "group_by_length"} if KNOWS_STRATEGIES else {"group_by_length": True}
)
"""Training arguments that draw rows of like length together."""
IN_ORDER: Mapping[str, Any] = (
    {"train_sampling_strategy": "sequential"} if KNOWS_STRATEGIES else {"group_by_length": False}
)
"""Training arguments that take rows as they come, or at random where transformers knows no better."""
DEFAULTS: Mapping[str, Any] = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-5,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    **BY_LENGTH,
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "none",
}
"""Training arguments where the user gives no others; all that are not here are as in `TrainingArguments`."""
OURS: Mapping[str, str] = {
    "output_dir": "the output folder (`out`) decides it",
    "seed": "`seed` is it",
    "data_seed": "`seed` is it",
    "use_cpu": "`device` is it",
    "resume_from_checkpoint": "`resume` is it",
    "eval_strategy": "it follows `save_strategy`",
    "eval_steps": "it follows `save_steps`",
    "load_best_model_at_end": "`patience` decides it",
    "metric_for_best_model": "it is the task's first metric",
    "greater_is_better": "the task's metric knows",
    "remove_unused_columns": "batches hold what the model reads",
    "disable_tqdm": "progress is shown on stderr",
}
"""Training arguments that are decided elsewhere, and where."""
_RANGES: Mapping[str, Mapping[str, Any]] = {
    "num_train_epochs": {"low_included": False},
    "learning_rate": {"low_included": False},
    "per_device_train_batch_size": {"low": 1},
    "gradient_accumulation_steps": {"low": 1},
    "weight_decay": {},
}
MASKED_TOKENS_AT_ONCE = 1024
"""Most tokens in a batch: a language model's logits are a whole vocabulary for each."""
Judge = Callable[[PreTrainedModel], Metrics]
Collate = Callable[[Sequence[Features]], Batch]


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments of transformers' `TrainingArguments` by name and range, and convert text to their types.

    Raises:
        InvalidOption: an unknown name, one that is decided elsewhere, or a value of the wrong type or range.
    """
    known = [field.name for field in fields(TrainingArguments) if field.init and field.name not in OURS]
    for name in arguments:
        if name in OURS:
            raise InvalidOption(f"`{name}` cannot be set: {OURS[name]}")
        if name not in known:
            raise unknown_name("training argument", name, known)
    checked = {name: _of_its_type(name, value) for name, value in arguments.items()}
    for name in checked.keys() & _RANGES.keys():
        require_range(name, checked[name], **_RANGES[name])
    return checked


def _of_its_type(name: str, value: Any) -> Any:
    """Convert text to the type of an argument, and leave other values as they are, if they are of it."""
    if not isinstance(value, (Mapping, list, tuple)):
        read = read_option(TrainingArguments, name, value)
        return value if read == value else read
    declared = get_type_hints(TrainingArguments)[name]
    if {get_origin(kind) or kind for kind in (declared, *get_args(declared))} & {dict, list}:
        return value
    raise InvalidOption(f"`{name}={value!r:.60}` must be one value")


def training_arguments(
    arguments: Mapping[str, Any], *, folder: str, device: torch.device, seed: int, metric: str | None, higher: bool
) -> TrainingArguments:
    """Make the Trainer's arguments: the user's over the defaults.

    Args:
        arguments: as `check_arguments` returns them.
        folder: where the Trainer's checkpoints go.
        device: on a GPU, mixed precision is the default: bfloat16 where the GPU has it, else float16.
        seed: of the order of rows, and of dropout.
        metric: name of what chooses the best checkpoint, at every save; None trains to the end and judges nothing.
        higher: whether higher values of the metric are better.

    Raises:
        InvalidOption: arguments that contradict each other.
    """
    on_gpu = device.type == "cuda"
    chosen = {**DEFAULTS, "dataloader_pin_memory": on_gpu, **_precision(device), **arguments}
    judged = {
        "eval_strategy": chosen["save_strategy"],
        "eval_steps": chosen.get("save_steps"),
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": higher,
    }
    if metric and str(chosen["save_strategy"]) == "no":
        raise InvalidOption(
            "`save_strategy=no` leaves nothing to choose from: set `patience=0`, or `save_strategy=epoch`"
        )
    try:
        return TrainingArguments(
            output_dir=folder,
            seed=seed,
            use_cpu=not on_gpu,
            remove_unused_columns=False,
            disable_tqdm=True,
            restore_callback_states_from_checkpoint=True,
            **(judged if metric else {}),
            **chosen,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise InvalidOption(f"the training arguments do not go together: {error}") from error


def _precision(device: torch.device) -> dict[str, bool]:
    if device.type != "cuda":
        return {}
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {"bf16": has_bfloat16, "fp16": not has_bfloat16}


def collator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task) -> Collate:
    """Choose how rows become a training batch, padded at the right: by the task itself if it has a loss of its own.

    A masked language model's tokens are masked anew in every batch.
    """
    if isinstance(task, OwnLoss):
        return lambda rows: task.training_batch(rows, tokenizer)
    if is_masked(model):
        mask = DataCollatorForLanguageModeling(tokenizer, mlm=True)
        return lambda rows: cast("Batch", dict(mask([dict(row) for row in rows])))
    return lambda rows: pad(rows, tokenizer, "cpu") | pad_labels(rows, "cpu")


def is_masked(model: PreTrainedModel) -> bool:
    """Tell whether a model is a masked language model, which needs no labels to be trained."""
    return type(model).__name__.endswith("ForMaskedLM")


def masked_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: Sequence[Features], seed: int = 0
) -> Metric:
    """Average the cross-entropy of masked tokens over rows, in nats, lower is better; a seed masks the same tokens.

    Raises:
        DataError: no rows, or so few tokens that none was masked.
    """
    mask = DataCollatorForLanguageModeling(tokenizer, mlm=True, seed=seed)
    losses: list[float] = []
    with inference(model):
        for indices in length_sorted_indices(features, max_padded_tokens=MASKED_TOKENS_AT_ONCE):
            batch = to_device(mask([dict(features[index]) for index in indices]), model.device)
            labels = batch.pop("labels")
            loss = task_loss(predictions(model(**batch), batch, model), {"labels": labels})
            losses += loss[(labels != IGNORED).any(1)].tolist()
    return metric(mean, losses)


class TaskTrainer(Trainer):
    """Transformers' Trainer, which takes the task's own loss, if it has one, and judges by its metric.

    Args:
        task: its own loss is used if it has one, else the model's.
        judge: metrics of a model on rows that are neither trained on nor reported; None judges nothing.
        options: of transformers' `Trainer`.
    """

    def __init__(self, *, task: Task, judge: Judge | None, **options: Any) -> None:
        super().__init__(**options, eval_dataset=[] if judge else None)  # the judge has its own rows
        self.remove_callback(PrinterCallback)  # it prints to stdout
        self.judge = judge
        self.own_loss = task if isinstance(task, OwnLoss) else None
        if self.own_loss is not None:
            self.model_accepts_loss_kwargs = False  # the loss of each accumulated batch is a mean

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """Compute the task's own loss, or the model's where it has none."""
        if self.own_loss is None:
            return super().compute_loss(model, inputs, *arguments, **options)
        return self.own_loss.loss(model, inputs)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Judge by the task's metrics, for the log, the choice of the best checkpoint and early stopping."""
        if self.judge is None:
            return {}
        metrics = {
            f"{metric_key_prefix}_{name}": metric.value
            for name, metric in self.judge(cast("PreTrainedModel", self.model)).items()
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def bare_model(self) -> PreTrainedModel:
        """Give the model without the wrapping that mixed precision puts around it."""
        return cast("PreTrainedModel", self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False))


class Bar(TrainerCallback):
    """A callback that walks a sequence of steps with the training, so that the package's own progress shows it.

    Args:
        progress: wraps a sequence to show a bar.
        description: what is going on, beside the bar.
    """

    def __init__(self, progress: Progress, description: str = "fine-tuning") -> None:
        self.progress, self.description = progress, description
        self.steps: Iterator[int] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show a bar of the steps to come; after a resumption, of those that are left."""
        self.steps = iter(self.progress(range(state.global_step, state.max_steps), self.description))
        next(self.steps, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar by one."""
        next(self.steps, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the bar where it is: it is full, unless the training stopped early."""
        self.steps = iter(())


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> Batch:
    """Copy a batch to a device."""
    return {name: values.to(device) for name, values in batch.items()}
