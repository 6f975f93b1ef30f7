"""The name that a misspelt one, or another tool's word, is likely to mean."""

import difflib
from collections.abc import Iterable, Mapping

IMAGES = "DATA"  # the input of infer, a word without an option

# Other tools' names (ultralytics, timm, torchvision, Hugging Face, Keras, Lightning) -> ours. If a name can mean
# several things, the first one that the command has is used.
OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    # the data and the images
    **dict.fromkeys(
        ("source", "input", "images", "image", "img_path", "image_path", "predict_dir"), (IMAGES, "data_url")
    ),
    **dict.fromkeys(("data", "data_dir", "data_path", "dataset_path", "dataset_dir", "root"), (IMAGES, "data_url")),
    **dict.fromkeys(("train", "train_path", "train_data_dir", "train_folder"), ("train_dir",)),
    **dict.fromkeys(("val", "val_path", "valid_dir", "validation_dir", "test_dir", "val_folder"), ("val_dir",)),
    **dict.fromkeys(("validation_split", "val_ratio", "val_size", "test_size"), ("val_split",)),
    "class_weights": ("class_balance",),
    # the network
    **dict.fromkeys(("model", "model_name", "architecture", "net", "network", "backbone", "a"), ("arch",)),
    **dict.fromkeys(
        ("imgsz", "img", "img_size", "input_size", "resolution", "crop_size", "train_crop_size"), ("image_size",)
    ),
    **dict.fromkeys(("classes", "nc", "nb_classes", "n_classes", "num_labels"), ("num_classes",)),
    **dict.fromkeys(("channels", "in_channels", "num_channels"), ("in_chans",)),
    **dict.fromkeys(("dropout", "drop_rate"), ("drop",)),
    "drop_path_rate": ("drop_path",),
    **dict.fromkeys(("frozen", "freeze_layers", "freeze_backbone"), ("freeze",)),
    **dict.fromkeys(
        (
            "checkpoint",
            "weights",
            "ckpt",
            "ckpt_path",
            "checkpoint_path",
            "initial_checkpoint",
            "model_path",
            "finetune",
        ),
        ("checkpoint", "pretrained"),
    ),
    # the schedule
    **dict.fromkeys(("lr", "lr0", "learning_rate", "max_lr", "blr"), ("base_lr",)),
    **dict.fromkeys(("lrf", "lr_min", "final_lr"), ("min_lr",)),
    **dict.fromkeys(("sched", "scheduler", "lr_schedule", "lr_scheduler_type", "cos_lr"), ("lr_scheduler",)),
    **dict.fromkeys(
        ("warmup", "warmup_epochs", "warmup_steps", "lr_warmup_epochs", "warmup_ratio"), ("warmup_length",)
    ),
    **dict.fromkeys(("lr_warmup_lr", "warmup_bias_lr"), ("warmup_lr",)),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs", "nb_epochs", "num_train_epochs"), ("epochs",)),
    **dict.fromkeys(
        ("batch", "bs", "b", "batch_size_per_gpu", "per_device_train_batch_size", "train_batch_size"), ("batch_size",)
    ),
    **dict.fromkeys(
        (
            "accumulate",
            "accum_iter",
            "grad_accum",
            "grad_accum_steps",
            "gradient_accumulation_steps",
            "accumulate_grad_batches",
            "nbs",
        ),
        ("accumulation_step",),
    ),
    **dict.fromkeys(("early_stopping", "early_stop", "early_stopping_patience"), ("patience",)),
    **dict.fromkeys(("time", "max_time", "time_limit", "hours"), ("max_hours",)),
    **dict.fromkeys(("eval_metric", "monitor", "metric", "metric_for_best_model", "best_metric"), ("best_by",)),
    **dict.fromkeys(("eval_interval", "val_interval", "val_freq", "check_val_every_n_epoch"), ("eval_every_epochs",)),
    **dict.fromkeys(("resume_from_checkpoint", "resume_from"), ("resume",)),
    # the optimizer
    **dict.fromkeys(("opt", "optim", "optimiser"), ("optimizer",)),
    **dict.fromkeys(("wd", "decay"), ("weight_decay",)),
    **dict.fromkeys(("opt_eps", "adam_epsilon"), ("eps",)),
    **dict.fromkeys(("opt_betas", "betas", "adam_beta1", "adam_beta2"), ("beta",)),
    **dict.fromkeys(("clip_grad", "max_grad_norm", "grad_clip", "gradient_clip_val"), ("clip_grad_norm",)),
    **dict.fromkeys(("layer_lr_decay", "llrd"), ("layer_decay",)),
    **dict.fromkeys(("ema", "model_ema", "use_ema"), ("with_ema",)),
    "model_ema_decay": ("ema_decay",),
    **dict.fromkeys(("swa", "use_swa", "lawa"), ("model_average",)),
    **dict.fromkeys(("bce", "bce_loss", "criterion", "loss_fn"), ("loss",)),
    # the teacher
    **dict.fromkeys(("teacher_model", "teacher_path", "teacher_weights", "kd_model_name"), ("teacher",)),
    **dict.fromkeys(("distillation", "distillation_type", "kd", "kd_distill_type", "token_label"), ("distill",)),
    **dict.fromkeys(("distillation_alpha", "kd_loss_weight", "dense_weight"), ("distill_weight",)),
    **dict.fromkeys(("distillation_tau", "kd_temperature", "temperature"), ("distill_temperature",)),
    # the augmentation
    **dict.fromkeys(("aa", "autoaugment", "augment", "randaugment"), ("auto_augment",)),
    **dict.fromkeys(("reprob", "erasing", "random_erase"), ("re_prob",)),
    "remode": ("re_mode",),
    **dict.fromkeys(("aug_repeats", "repeated_aug", "repeat_aug", "num_repeats"), ("repeated_augment",)),
    "recount": ("re_count",),
    **dict.fromkeys(("smoothing",), ("label_smoothing",)),
    **dict.fromkeys(("mixup_alpha",), ("mixup",)),
    **dict.fromkeys(("cutmix_alpha",), ("cutmix",)),
    **dict.fromkeys(("fliplr", "flip"), ("hflip",)),
    **dict.fromkeys(("jitter", "hsv_h", "hsv_s", "hsv_v"), ("color_jitter",)),
    "scale": ("min_crop",),
    **dict.fromkeys(("progressive_resizing", "progressive_resize", "fixres"), ("crop_schedule",)),
    "interpolation": ("train_interpolation",),
    # the machine
    **dict.fromkeys(("workers", "num_workers", "j", "dataloader_num_workers"), ("workers", "num_parallel_workers")),
    "device": ("device_target",),  # in a file; on the command line it is an option
    **dict.fromkeys(("gpu", "gpu_id", "accelerator", "cuda"), ("device", "device_target")),
    **dict.fromkeys(("gpus", "devices", "nproc", "world_size", "num_gpus"), ("device_num",)),
    **dict.fromkeys(("nproc_per_node", "num_devices", "num_processes", "nnodes", "ngpus"), ("device_num",)),
    **dict.fromkeys(("amp", "fp16", "bf16", "half", "precision", "mixed_precision"), ("precision", "amp_level")),
    **dict.fromkeys(("compile", "torchcompile"), ("pynative_mode",)),
    # what is written
    **dict.fromkeys(("name", "experiment", "exp_name", "run_name"), ("model_postfix",)),
    **dict.fromkeys(
        ("project", "save_dir", "output_dir", "out_dir", "default_root_dir", "output", "out"),
        ("output", "ckpt_root_dir"),
    ),
    **dict.fromkeys(("log_dir", "logdir", "logging_dir"), ("logs_root_dir",)),
    **dict.fromkeys(("save_period", "save_freq", "save_steps"), ("ckpt_save_every_step",)),
    **dict.fromkeys(("save_total_limit", "checkpoint_hist"), ("ckpt_keep_num",)),
    **dict.fromkeys(("log_interval", "log_every_n_steps", "logging_steps", "print_freq"), ("print_loss_every",)),
    **dict.fromkeys(("log_wandb", "wandb", "report_to"), ("tracker",)),
    **dict.fromkeys(("topk", "k"), ("top_k",)),
    **dict.fromkeys(("export_format", "include"), ("file_format",)),
    **dict.fromkeys(("cfg", "config_file", "yaml", "c"), ("config",)),
}
# Other tools' names of commands.
OTHER_COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("predict", "inference", "detect", "classify", "test_image", "segment", "pose", "track"), "infer"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "evaluate", "test"), "eval"),
    **dict.fromkeys(("fit", "finetune", "fine_tune", "fine_tuning", "training", "resume"), "train"),
    **dict.fromkeys(("benchmark", "profile", "speed"), "bench"),
    **dict.fromkeys(("convert", "info", "inspect"), "weights"),
    **dict.fromkeys(("list", "list_models", "zoo"), "models"),
    **dict.fromkeys(("view", "visualize", "visualise", "explain", "plot"), "show"),
    **dict.fromkeys(("demo", "tutorial", "start"), "quickstart"),
}

# Other tools' values of keys that take one of a few words.
OTHER_VALUES: Mapping[str, str] = {
    **dict.fromkeys(("acc", "acc1", "accuracy", "top_1", "top1_acc", "val_acc", "val_accuracy", "eval_top1"), "top1"),
    **dict.fromkeys(("val_loss", "eval_loss", "cross_entropy"), "loss"),
    **dict.fromkeys(("f1", "f1_score", "f1_macro"), "macro_f1"),
    **dict.fromkeys(("balanced", "bacc", "mean_class_accuracy", "macro_recall"), "balanced_accuracy"),
    **dict.fromkeys(("weighted", "class_weights", "class_weight"), "weights"),
    **dict.fromkeys(("sampler", "oversampling", "weighted_sampler"), "sampling"),
    **dict.fromkeys(("ignore", "warn"), "skip"),
    **dict.fromkeys(("raise", "fail", "strict"), "error"),
    **dict.fromkeys(("cuda", "rocm", "nvidia"), "GPU"),
    "npu": "Ascend",
    **dict.fromkeys(("folder", "imagefolder", "image_folder", "custom"), "ImageNet"),
}


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, whatever its case; one that `name` abbreviates where there is one."""
    folded, name = {candidate.lower(): candidate for candidate in names}, name.lower()
    whole = [candidate for candidate in folded if name and candidate.startswith(name)]
    return folded[difflib.get_close_matches(name, whole or folded, n=1, cutoff=0.0)[0]]


def nearest_key(name: str, names: Iterable[str]) -> str:
    """The name among `names` that `name` is likely to mean: by the table of other tools' words, else by its letters.

    `IMAGES` may be among the names, for a command that works on images named without an option.
    """
    names, name = tuple(names), _plain(name)
    same = [candidate for candidate in names if candidate == name]  # written with another case or with dashes
    other = [meant for meant in OTHER_WORDS.get(name, ()) if meant in names]
    return next(iter([*same, *other]), "") or nearest(name, [each for each in names if each != IMAGES])


def nearest_value(word: str, values: Iterable[str]) -> str:
    """The value of a key that `word` is likely to mean."""
    values, meant = tuple(values), OTHER_VALUES.get(_plain(word))
    return meant if meant in values else nearest(word, values)


def nearest_command(name: str, names: Iterable[str]) -> str:
    """The command that `name` is likely to mean."""
    return OTHER_COMMANDS.get(_plain(name)) or nearest(name, names)


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()
