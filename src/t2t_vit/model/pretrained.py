"""Networks as Hugging Face keeps them: a folder or a repository with `config.json` and `model.safetensors`.

The configuration is timm's, so that `timm.create_model("local-dir:FOLDER", pretrained=True)`, or "hf-hub:REPO", opens
the same folder once `t2t_vit.timm` is imported. Preprocessing and class names travel in it.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from t2t_vit.errors import UserError, first_line
from t2t_vit.files import failing_on_a_full_disk, place_together, working_folder
from t2t_vit.formats.safetensors_file import read_safetensors_file, read_sharded_safetensors, safetensors_parts
from t2t_vit.model.card import CARD, card_of, keeps_own_card
from t2t_vit.model.folder_config import CONFIG, SAVED, FolderConfig, check_saved_together, read_folder_config
from t2t_vit.model.head import GlobalPool
from t2t_vit.model.inputs import PositionPolicy, check_tokens
from t2t_vit.model.skeleton import first_difference, skeleton
from t2t_vit.model.t2t_vit import T2TViT
from t2t_vit.model.tokens_to_token import TokenPerformer
from t2t_vit.variants import VARIANTS, find_variant

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
Model = TypeVar("Model", bound=T2TViT)


def save_pretrained(
    model: T2TViT,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str = "",
    license: str = "",
) -> None:
    """Write `config.json`, `model.safetensors` and a model card, `README.md`, into `folder`.

    A card written by somebody else, or without our first line, is kept.

    Args:
        preprocessing: as from `Preprocessing.to_dict`; None: that of the model's file, or the authors'.
        classes: names in the order of the logits; None: those of the model's file.
        metrics: for the card: "top1", "top5", "balanced_accuracy", "macro_f1" (shares of 1) and "loss".
        dataset: for the card: the data set of the metrics.
        license: for the card: the licence of the weights in the hub's spelling, such as "apache-2.0".

    Raises:
        UserError: the folder cannot be written, the number of names differs from the classes, or the network is not
            one that a configuration builds: a module was replaced, added, pruned, hooked or patched, or a tensor
            is quantised, sharded or without values. Then the folder does not change.
    """
    _write(model, Path(folder), Path(folder).resolve().name, preprocessing, classes, metrics, dataset, license)


def _write(
    model: T2TViT,
    folder: Path,
    source: str,
    preprocessing: Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    metrics: Mapping[str, float] | None,
    dataset: str,
    license: str,
) -> None:
    """The three files; `source` is what the card says `from_pretrained` opens."""
    config = config_of(model, preprocessing, classes)
    _check_opens_again(model, config)
    card = card_of(model, source, classes=config.classes, metrics=metrics, dataset=dataset, license=license)
    tensors = _own_memory(model.state_dict())
    config = replace(config, saved=_digest(tensors, config, model))
    parts = safetensors_parts(tensors, texts={SAVED: str(config.saved)})
    stated = json.dumps(config.to_json(model.num_features, model.grid), indent=2, ensure_ascii=False)
    texts = {CONFIG: f"{stated}\n"} if keeps_own_card(folder) else {CARD: card, CONFIG: f"{stated}\n"}
    with working_folder(folder, "save") as beside:
        # All are whole on the disk before any takes its name; config.json, without which nothing opens, is the last.
        with failing_on_a_full_disk(folder / WEIGHTS, beside, sum(map(len, parts))):
            with (beside / WEIGHTS).open("wb") as file:
                file.writelines(parts)
            for name, text in texts.items():
                (beside / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        place_together(beside, [folder / name for name in (WEIGHTS, *texts)])


def _digest(tensors: Mapping[str, Tensor], config: FolderConfig, model: T2TViT) -> str:
    """What tells this save from any other: of other tensors, or another configuration."""
    state = blake2b(json.dumps(config.to_json(model.num_features, model.grid)).encode(), digest_size=16)
    for tensor in tensors.values():
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def from_pretrained(
    path_or_repo: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    position: PositionPolicy = "rebuild",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    model_class: type[Model] = T2TViT,  # type: ignore[assignment]  # the default of a type variable
) -> Model:
    """Open a network from a folder written by `save_pretrained`, or from the Hugging Face hub; in eval mode.

    Its tensors have the saved dtypes; dropout is off until rates are set.

    Args:
        path_or_repo: a folder, or "owner/name" on the hub.
        num_classes: another number of classes: the head is new and untrained.
        image_size: another side or (height, width) in pixels, with `position` for the position table.
        revision: a branch, tag or commit of the repository, as in `huggingface_hub.hf_hub_download`.
        cache_dir: folder for downloaded files.
        token: access token of the hub, for a private repository.
        local_files_only: use only files that were downloaded before.

    Raises:
        UserError: no such folder or repository, or it holds no T2T-ViT.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    config = read_folder_config(located(path_or_repo, CONFIG, hub))
    index = Path(path_or_repo) / INDEX
    several = index.is_file() and not index.with_name(WEIGHTS).is_file()
    # Looked for once: asked again the hub may give the file of a commit that was made meanwhile.
    weights = index if several else located(path_or_repo, WEIGHTS, hub)
    tensors = read_sharded_safetensors(index) if several else read_safetensors_file(weights)
    if config.unread:
        warnings.warn(f"{path_or_repo}: not read in its {CONFIG}: {', '.join(config.unread)}", stacklevel=2)
    build = partial(_built, config, path_or_repo, model_class)
    # A class of somebody else's may look at the numbers that it makes.
    model = skeleton(build) if model_class.__module__.startswith("t2t_vit.") else build()
    _fill(model, tensors, path_or_repo)
    if not several:
        check_saved_together(path_or_repo, config, weights)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    if image_size is not None:
        model.set_input_size(image_size, position)
    return model.eval()


def push_to_hub(
    model: T2TViT,
    repo_id: str,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str = "",
    license: str = "",
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Add T2T-ViT",
) -> str:
    """Save the model to the repository "owner/name" on the Hugging Face hub, which is created if it does not exist.

    The first arguments are those of `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write(model, Path(folder), repo_id, preprocessing, classes, metrics, dataset, license)
        return published(folder, repo_id, private=private, token=token, commit_message=commit_message)


def config_of(
    model: T2TViT, preprocessing: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> FolderConfig:
    """What `config.json` says of the model: what its modules are, whatever they were built as.

    Raises:
        UserError: images of another size, or another number of names than classes.
    """
    given = preprocessing or {}
    if "image_size" in given and tuple(given["image_size"]) != model.image_size:
        raise UserError(
            f"preprocessing is for images of {given['image_size']}, but {model.name} is for {model.image_size}"
        )
    if given.get("in_chans", model.in_chans) != model.in_chans:
        raise UserError(f"preprocessing is for {given['in_chans']} channels, but {model.name} is for {model.in_chans}")
    count = _class_count(model)
    names = class_names(model) if classes is None else tuple(map(str, classes))
    if names is not None and len(names) != count:
        raise UserError(f"{len(names)} class names for {count} classes of {model.name}")
    kinds = {module.approximate for module in model.modules() if isinstance(module, nn.GELU)}
    rates = {module.drop.p for module in model.modules() if isinstance(module, TokenPerformer)}
    kept: dict[str, Any] = {key: model.pretrained_cfg[key] for key in _KEPT if key in model.pretrained_cfg}
    kept |= {key: given[key] for key in _PREPROCESSING if key in given}
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return FolderConfig(
        arch=model.name,
        num_classes=count,
        in_chans=model.in_chans,
        image_size=model.image_size,
        global_pool=model.global_pool,
        approximate_gelu=kinds == {"tanh"} if len(kinds) == 1 else model.approximate_gelu,
        other_sizes=model.other_sizes,
        performer_drop=rates.pop() if len(rates) == 1 else None,
        classes=names,
        **kept,
    )


def _class_count(model: T2TViT) -> int:
    """Length of the logits as the head that is there makes them."""
    head = model.head
    if isinstance(head, nn.Identity):
        return 0
    return head.out_features if isinstance(head, nn.Linear) else model.num_classes


def class_names(model: T2TViT) -> tuple[str, ...] | None:
    """Names of the classes in the order of the logits, where the model came with them."""
    names = model.pretrained_cfg.get("label_names")
    return tuple(names) if names and len(names) == _class_count(model) else None


def preprocessing_of(model: T2TViT) -> dict[str, Any]:
    """The preprocessing that came with the model, or the authors', as `Preprocessing.from_dict` takes it."""
    kept: dict[str, Any] = {key: model.pretrained_cfg[key] for key in _PREPROCESSING}
    return {"image_size": list(model.image_size), "in_chans": model.in_chans, **kept}


_PREPROCESSING = ("crop_pct", "mean", "std", "interpolation")
_KEPT = (*_PREPROCESSING, "crop_mode")


def _check_opens_again(model: T2TViT, config: FolderConfig) -> None:
    """Compare the model with the one that `from_pretrained` will build.

    Raises:
        UserError: they differ.
    """
    if VARIANTS.get(model.name) != model.variant:
        difference: str | None = f"{model.name} is not in the table of networks, or differs from the one there"
    elif model.global_pool not in get_args(GlobalPool):
        difference = f"its global_pool is {model.global_pool!r}"
    else:
        difference = first_difference(model, skeleton(partial(_built, config, model.name, T2TViT)))
    if difference is not None:
        raise UserError(
            f"{model.name} cannot be saved so that it opens again with the same answers: {difference}; undo that, or "
            "save the module itself with torch.save"
        )


def _own_memory(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, in a row, and none of them in the memory of another."""
    tensors, seen = dict[str, Tensor](), set[int]()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if place in seen else own
        seen.add(place)
    return tensors


def _built(config: FolderConfig, source: str | Path, model_class: type[Model]) -> Model:
    if config.arch is None:
        raise UserError(f"{source}: its {CONFIG} gives no architecture; it was not written by save_pretrained")
    variant = find_variant(config.arch)
    if config.num_classes is None or config.image_size is None or config.in_chans is None:
        facts = {"num_classes": config.num_classes, "image_size": config.image_size, "in_chans": config.in_chans}
        lacking = ", ".join(name for name, value in facts.items() if value is None)
        raise UserError(f"{source}: its {CONFIG} is incomplete: it lacks {lacking}")
    try:
        check_tokens(variant, config.image_size)
    except UserError as error:
        raise UserError(f"{source}: its {CONFIG} cannot be used: {error}") from None
    model = model_class(
        variant,
        config.arch,
        num_classes=config.num_classes,
        in_chans=config.in_chans,
        image_size=config.image_size,
        drop=0.0,
        drop_path=0.0,
        drop_block=0.0,
        performer_drop=0.1 if config.performer_drop is None else config.performer_drop,
        approximate_gelu=bool(config.approximate_gelu),
        global_pool="token" if config.global_pool is None else config.global_pool,
        other_sizes=config.other_sizes,
    )
    known = {key: value for key in _KEPT if (value := getattr(config, key)) is not None}
    names = {"label_names": config.classes} if config.classes else {}
    model.pretrained_cfg = {**model.pretrained_cfg, **known, **names}
    return model


def _fill(model: T2TViT, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise UserError(
            f"{source}: its tensors are not those of {model.name} ({len(wrong)} differ, such as {wrong[0]})"
        )
    # Not copied into the model's own, whose dtypes would win; clones, since the file may be written again.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)


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
        raise UserError(f"{repo}: no such folder, and it is not the name of a repository (owner/name)")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, **options))
    except (OSError, ValueError) as error:  # the hub's own errors are of these two kinds
        raise UserError(
            f"{repo}: no such folder, and the Hugging Face hub did not return {file} ({first_line(error)})"
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
    except Exception as error:
        # Where the network fails, recent versions of the hub's library raise errors of httpx, which older ones lack.
        if not isinstance(error, OSError | ValueError) and not type(error).__module__.startswith("http"):
            raise
        raise UserError(f"{repo_id}: the Hugging Face hub refused it ({first_line(error)})") from error
    return str(done.commit_url)
