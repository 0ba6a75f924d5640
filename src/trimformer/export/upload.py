"""Upload a saved checkpoint to the Hugging Face hub; only where somebody asked for it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from trimformer.errors import CheckpointError, InvalidOption, first_line


def check_push(repo: str) -> None:
    """Refuse an upload that cannot work, before any work is done and without the network.

    Raises:
        InvalidOption: not a name of a repository.
        CheckpointError: nobody is logged in.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InvalidOption(f"{repo!r} must be a repository of the hub such as my-name/my-model: {error}") from error
    if get_token() is None:
        raise CheckpointError("not logged in to the hub; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repo: str) -> str:
    """Upload a checkpoint folder; a repository that does not exist is made, a private one.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: the hub cannot be reached or refuses; the folder stays as it is.
    """
    api = HfApi(library_name="trimformer")
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message="Upload a checkpoint pruned by trimformer"
        )
    except (HTTPError, OSError, RuntimeError) as error:  # the last is what the hub's own transfer raises
        raise CheckpointError(
            f"{folder} is saved, but not uploaded to {repo}: {first_line(error)}; upload it later with "
            f"`hf upload {repo} {folder}`"
        ) from error
    return str(address)
