"""Uploads reach a hub on this machine; what cannot work is one error, and the folder stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_stand_in import Hub, hub
from trimformer.errors import CheckpointError, InvalidOption
from trimformer.export.upload import check_push, push

TOKEN = "hf_" + "x" * 20


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "small"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    return made


def test_a_folder_is_uploaded_to_a_private_repository(server: Hub, folder: Path) -> None:
    check_push("me/small")
    assert push(folder, "me/small") == f"{server.url}/me/small"
    assert server.created.get("visibility") == "private" or server.created.get(
        "private"
    )  # by version of huggingface_hub
    assert server.created["name"] == "small"
    assert server.files == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert server.tokens == {f"Bearer {TOKEN}"}


def test_a_refusal_is_one_line_and_says_how_to_go_on(server: Hub, folder: Path) -> None:
    server.refuses = True
    with pytest.raises(CheckpointError, match=r"is saved, but not uploaded.*403.*hf upload me/small") as caught:
        push(folder, "me/small")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert (folder / "config.json").exists()


@pytest.mark.usefixtures("server")
def test_no_network_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="not uploaded to me/small") as caught:
        push(folder, "me/small")
    assert "\n" not in str(caught.value)


def test_offline_is_one_line(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="not uploaded to me/small"):
        push(folder, "me/small")
    assert server.files == {}


@pytest.mark.parametrize("repo", ["", "a/b/c", "me/sm all", "-me/small", "me/small.git"])
def test_a_wrong_name_is_found_before_any_work(repo: str) -> None:
    with pytest.raises(InvalidOption, match="must be a repository"):
        check_push(repo)


def test_who_is_not_logged_in_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="hf auth login"):
        check_push("me/small")
