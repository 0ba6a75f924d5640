"""The map of pooled embeddings: the least squares it solves, when it is kept, and that its files are the model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from test_pooling import PREFIX, describe, embedded
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny_models import inputs, tiny_model
from trimformer import Budget, Pruner
from trimformer.data.rows import Batch
from trimformer.data.varying import varied
from trimformer.model import checkpoint
from trimformer.model.pooling import Normalize
from trimformer.model.sentence_files import pooling_of, sentence_transformers_files
from trimformer.model.structure import read_structure
from trimformer.observing.predictions import predictions
from trimformer.pruning.contract import Job
from trimformer.pruning.refit.pooled import HELD_OUT, RIDGES, map_embeddings

TEXTS = ["the red cat", "a dog saw the big green house in the old city", "tree", "who built the river"]
MEAN = {"pooling_mode": "mean", "embedding_dimension": 32}


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> PreTrainedModel:
    """A sentence encoder with the files that say so."""
    model = tiny_model("bert", "encoder")
    folder = checkpoint.write(model, tmp_path / "encoder", tokenizer=tokenizer)
    describe(folder, MEAN, "Normalize")
    return checkpoint.load_model(str(folder), "AutoModel")


def rows_of(model: PreTrainedModel, count: int, seed: int = 0) -> list[Batch]:
    return [inputs(model, (12, 7, 9, 12), seed=seed + number) for number in range(count)]


def job_of(dense: PreTrainedModel, noise: float, rows: list[Batch]) -> Job:
    """A job whose student has noise in the weights of its last block."""
    structure = read_structure(dense)
    student = structure.copied()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in student.blocks()[-1].parameters():
            weight.add_(noise * torch.randn(weight.shape, generator=generator))
    return Job(structure, rows, 0, lambda items, _: items, student=student, costs={}, limit=0.0)


@torch.no_grad()
def pooled(model: PreTrainedModel, rows: list[Batch]) -> np.ndarray:
    """Means over real tokens, by their definition."""
    found = []
    for batch in rows:
        hidden = model(**batch).last_hidden_state
        found += [row[mask.bool()].mean(0) for row, mask in zip(hidden, batch["attention_mask"], strict=True)]
    return torch.stack(found).double().numpy()


@torch.no_grad()
def distance(dense: PreTrainedModel, student: PreTrainedModel, rows: list[Batch]) -> float:
    def each(model: PreTrainedModel) -> Tensor:
        return torch.cat([predictions(model(**batch), batch, model).values for batch in rows])

    return float((each(dense) - each(student)).square().sum(-1).mean())


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ridge_regression(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias, with a pull towards the identity: scikit-learn's ridge, of what is left to explain."""
    found = Ridge(alpha=ridge * np.mean(x**2) * len(x)).fit(x, y - x)
    return found.coef_.T + np.eye(x.shape[1]), found.intercept_


def test_it_solves_ridge_regression_on_the_texts_as_they_are_and_varied(encoder: PreTrainedModel) -> None:
    job = job_of(encoder, 0.05, rows_of(encoder, 30))
    map_embeddings(job)
    texts = [*job.batches, *varied(job.batches, 1)]
    own = np.arange(4 * len(texts)) % HELD_OUT != HELD_OUT - 1
    x, y = (pooled(each, texts)[own] for each in (job.student.model, encoder))
    z = pooled(job.student.model, texts)[~own]
    (layer,) = pooling_of(job.student.model).added
    fits = [ridge_regression(x, y, ridge) for ridge in RIDGES]
    wanted = unit(pooled(encoder, texts)[~own])
    weight, bias = min(fits, key=lambda fit: np.square(unit(z @ fit[0] + fit[1]) - wanted).sum())
    np.testing.assert_allclose(layer.weight.numpy().T, weight, atol=1e-4)
    assert layer.bias is not None
    np.testing.assert_allclose(layer.bias.numpy(), bias, atol=1e-4)
    assert pooling_of(encoder).added == ()


def test_texts_that_were_not_seen_come_nearer(encoder: PreTrainedModel) -> None:
    job, unseen = job_of(encoder, 0.05, rows_of(encoder, 60)), rows_of(encoder, 30, seed=500)
    before = distance(encoder, job.student.model, unseen)
    map_embeddings(job)
    assert distance(encoder, job.student.model, unseen) < 0.8 * before


def test_fewer_texts_than_can_decide_leave_it_out(encoder: PreTrainedModel) -> None:
    job = job_of(encoder, 0.05, rows_of(encoder, 1))
    map_embeddings(job)
    assert pooling_of(job.student.model).added == ()


def test_a_student_that_is_as_good_as_the_dense_model_gets_none(encoder: PreTrainedModel) -> None:
    job = job_of(encoder, 0.0, rows_of(encoder, 30))
    map_embeddings(job)
    assert pooling_of(job.student.model).added == ()


@pytest.mark.parametrize("head", [None, "encoder"])
def test_models_with_a_head_or_without_files_get_none(head: str | None) -> None:
    model = tiny_model("bert", head)
    job = job_of(model, 0.05, rows_of(model, 30))
    before = {name: weight.clone() for name, weight in job.student.model.state_dict().items()}
    map_embeddings(job)
    assert pooling_of(job.student.model).added == ()
    assert all(torch.equal(weight, before[name]) for name, weight in job.student.model.state_dict().items())


def test_files_that_are_not_understood_are_none_of_its_business_below_a_head(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = checkpoint.write(tiny_model("bert", vocab_size=len(tokenizer)), tmp_path / "model", tokenizer=tokenizer)
    (folder / "modules.json").write_text("[]")
    model = checkpoint.load_model(str(folder))
    map_embeddings(job_of(model, 0.05, []))


def test_what_is_saved_embeds_as_what_was_pruned(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    result = Pruner(encoder, rows_of(encoder, 30), calibration_tokens=None).prune(Budget(flops=0.5))
    assert len(pooling_of(result.model).added) == 1
    out = result.save(tmp_path / "small", tokenizer=tokenizer)
    modules = json.loads((out / "modules.json").read_text())
    assert [each["type"] for each in modules] == [
        PREFIX + kind for kind in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert [each["idx"] for each in modules] == [0, 1, 2, 3]
    assert len({each["name"] for each in modules}) == 4
    loaded = checkpoint.load_model(str(out), "AutoModel")
    assert pooling_of(loaded).added == ()
    assert isinstance(pooling_of(loaded).layers[-1], Normalize)
    torch.testing.assert_close(embedded(loaded, tokenizer), embedded(result.model, tokenizer))
    again = checkpoint.write(
        loaded, tmp_path / "again", tokenizer=tokenizer, extra_files=sentence_transformers_files(str(out))
    )
    torch.testing.assert_close(
        embedded(checkpoint.load_model(str(again), "AutoModel"), tokenizer), embedded(loaded, tokenizer)
    )


def test_sentence_transformers_applies_the_map(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    result = Pruner(encoder, rows_of(encoder, 30), calibration_tokens=None).prune(Budget(flops=0.5))
    out = result.save(tmp_path / "small", tokenizer=tokenizer)
    expected = torch.tensor(sentence_transformers.SentenceTransformer(str(out), device="cpu").encode(TEXTS))
    torch.testing.assert_close(embedded(result.model, tokenizer), expected, atol=1e-5, rtol=0)
