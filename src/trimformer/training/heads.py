"""Models to be trained for a task: where a checkpoint lacks the task's head, it gets a new one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from trimformer.errors import InvalidOption
from trimformer.judging.task import Task
from trimformer.model.checkpoint import check_report, load_config, load_with_report, silent_transformers
from trimformer.model.placement import find_device


def load_to_train(
    name: str, task: Task, device: str = "cpu", seed: int = 0, *, new_head: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model with the task's head, which is new where the checkpoint has none, or one for something else.

    Args:
        name: a checkpoint folder, dense or pruned, or a hub name.
        task: its `head_config`, if it has one, is what the config of a new head says.
        device: where to put it, such as `cpu` or `cuda`.
        seed: of a new head's weights.
        new_head: whether a head that fits the task gives way to a new one, too.

    Returns:
        The model, and the names of its new weights.

    Raises:
        InvalidOption: there is no such device, or no head apart from the word embeddings that could be new.
        CheckpointError: not a checkpoint, or damaged.
    """
    place = find_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, report = load_with_report(name, task.auto_class, **_head_settings(name, task))
    missing, mismatched = set(report["missing_keys"]), {entry[0]: entry for entry in report["mismatched_keys"]}
    base = {key for key in missing | mismatched.keys() if _in_base(model, key)}
    check_report(
        name, {"missing_keys": missing & base, "mismatched_keys": [mismatched[key] for key in mismatched.keys() & base]}
    )
    new = (missing | mismatched.keys()) - base
    if new_head:
        model, new = _without_head(model, seed)
        if not new:
            raise InvalidOption(f"the head of {name} is its word embeddings, which stay: leave out `new_head`")
    return model.to(place), sorted(new)  # type: ignore[arg-type]  # a device is one


def _without_head(model: PreTrainedModel, seed: int) -> tuple[PreTrainedModel, set[str]]:
    """Give the same base model a head of random numbers, those of a checkpoint that has none; and their names.

    What a head shares with the base model, as word embeddings, is not new.
    """
    weights = model.state_dict()
    base = {name: value for name, value in weights.items() if _in_base(model, name)}
    with torch.random.fork_rng(devices=[]), silent_transformers():
        torch.manual_seed(seed)
        fresh = type(model).from_pretrained(None, config=model.config, state_dict=base, dtype=model.dtype)
    shared = {weight.data_ptr() for name, weight in fresh.state_dict().items() if name in base}
    return fresh.eval(), {name for name, weight in fresh.state_dict().items() if weight.data_ptr() not in shared}


def _head_settings(name: str, task: Task) -> Mapping[str, Any]:
    """Find what to change in the checkpoint's config: not the classes where it names the same, if in another order.

    What kind of problem they are is changed in any case: a loss of numbers or label sets is another one.
    """
    head: Mapping[str, Any] = getattr(task, "head_config", {})
    config = load_config(name)
    named = {str(label).lower() for label in (config.id2label or {}).values()}
    if named != set(head.get("id2label", {}).values()):
        return head
    kind = head.get("problem_type")
    return {} if getattr(config, "problem_type", None) in (None, kind) else {"problem_type": kind}


def _in_base(model: PreTrainedModel, parameter: str) -> bool:
    return model.base_model is model or parameter.startswith(f"{model.base_model_prefix}.")


def put_on(head: PreTrainedModel, base: PreTrainedModel) -> PreTrainedModel:
    """Copy a model, and put another base model (a pruned one of the same kind) below the copy's head."""
    model = copy.deepcopy(head)
    setattr(model, model.base_model_prefix, base)
    model.config = base.config
    return model
