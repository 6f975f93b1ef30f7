"""Files on the Hugging Face hub; nothing here is reached for a local folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t_vit.errors import UserError


def located(path_or_repo: str | Path, file: str, options: Mapping[str, Any]) -> Path:
    """`file` of a local folder, or of the repository "owner/name", fetched into the cache with these options.

    Raises:
        UserError: there is no such folder or repository, or no such file in it.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise UserError(f"{folder}: holds no {file}; it was not written by save_pretrained")
        return folder / file
    repo = str(path_or_repo)
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise UserError(f"{repo}: there is no such folder, and it is no name of a repository (owner/name)")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, **options))
    except (OSError, ValueError) as error:  # the hub's own errors are of these two kinds
        raise UserError(
            f"{repo}: there is no such folder, and the Hugging Face hub does not give {file} ({_reason(error)})"
        ) from error


def published(
    folder: str | Path, repo_id: str, *, private: bool | None, token: str | bool | None, commit_message: str
) -> str:
    """Upload the files of `folder` into the repository, created where it is missing; the commit's address.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    except (OSError, ValueError) as error:
        raise UserError(f"{repo_id}: the Hugging Face hub did not take it ({_reason(error)})") from error
    return str(done.commit_url)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
