"""The name that a misspelt one, or another tool's word, is likely to mean."""

import difflib
from collections.abc import Iterable

IMAGES = "DATA"  # the input of infer, a word without an option

# Our names: those of other tools (ultralytics, timm, torchvision, Hugging Face, Keras, Lightning). If a word can mean
# several things, the first one that the command has is used.
_WORDS = {
    # the data and the images
    "DATA data_url": (
        "source input images image img_path image_path predict_dir data data_dir data_path dataset_path dataset_dir "
        "root"
    ),
    "train_dir": "train train_path train_data_dir train_folder",
    "val_dir": "val val_path valid_dir validation_dir test_dir val_folder",
    "val_split": "validation_split val_ratio val_size test_size",
    "class_balance": "class_weights",
    # the network
    "arch": "model model_name architecture net network backbone a",
    "image_size": "imgsz img img_size input_size resolution crop_size train_crop_size",
    "num_classes": "classes nc nb_classes n_classes num_labels",
    "in_chans": "channels in_channels num_channels",
    "drop": "dropout drop_rate",
    "drop_path": "drop_path_rate",
    "freeze": "frozen freeze_layers freeze_backbone",
    "checkpoint pretrained": "checkpoint weights ckpt ckpt_path checkpoint_path initial_checkpoint model_path finetune",
    # the schedule
    "base_lr": "lr lr0 learning_rate max_lr blr",
    "min_lr": "lrf lr_min final_lr",
    "lr_scheduler": "sched scheduler lr_schedule lr_scheduler_type cos_lr",
    "warmup_length": "warmup warmup_epochs warmup_steps lr_warmup_epochs warmup_ratio",
    "warmup_lr": "lr_warmup_lr warmup_bias_lr",
    "epochs": "max_epochs num_epochs n_epochs nb_epochs num_train_epochs",
    "batch_size": "batch bs b batch_size_per_gpu per_device_train_batch_size train_batch_size",
    "accumulation_step": (
        "accumulate accum_iter grad_accum grad_accum_steps gradient_accumulation_steps accumulate_grad_batches nbs"
    ),
    "patience": "early_stopping early_stop early_stopping_patience",
    "max_hours": "time max_time time_limit hours",
    "best_by": "eval_metric monitor metric metric_for_best_model best_metric",
    "eval_every_epochs": "eval_interval val_interval val_freq check_val_every_n_epoch",
    "resume": "resume_from_checkpoint resume_from",
    # the optimizer
    "optimizer": "opt optim optimiser",
    "weight_decay": "wd decay",
    "eps": "opt_eps adam_epsilon",
    "beta": "opt_betas betas adam_beta1 adam_beta2",
    "clip_grad_norm": "clip_grad max_grad_norm grad_clip gradient_clip_val",
    "layer_decay": "layer_lr_decay llrd",
    "with_ema": "ema model_ema use_ema",
    "ema_decay": "model_ema_decay",
    "model_average": "swa use_swa lawa",
    "loss": "bce bce_loss criterion loss_fn",
    # the teacher
    "teacher": "teacher_model teacher_path teacher_weights kd_model_name",
    "distill": "distillation distillation_type kd kd_distill_type token_label",
    "distill_weight": "distillation_alpha kd_loss_weight dense_weight",
    "distill_temperature": "distillation_tau kd_temperature temperature",
    # the augmentation
    "auto_augment": "aa autoaugment augment randaugment",
    "re_prob": "reprob erasing random_erase",
    "re_mode": "remode",
    "repeated_augment": "aug_repeats repeated_aug repeat_aug num_repeats",
    "re_count": "recount",
    "label_smoothing": "smoothing",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "hflip": "fliplr flip",
    "color_jitter": "jitter hsv_h hsv_s hsv_v",
    "min_crop": "scale",
    "crop_schedule": "progressive_resizing progressive_resize fixres",
    "train_interpolation": "interpolation",
    # the machine
    "workers num_parallel_workers": "workers num_workers j dataloader_num_workers",
    "device_target": "device",  # in a file; on the command line it is an option
    "device device_target": "gpu gpu_id accelerator cuda",
    "device_num": ("gpus devices nproc world_size num_gpus nproc_per_node num_devices num_processes nnodes ngpus"),
    "precision amp_level": "amp fp16 bf16 half precision mixed_precision",
    "pynative_mode": "compile torchcompile",
    # what is written
    "model_postfix": "name experiment exp_name run_name",
    "output ckpt_root_dir": "project save_dir output_dir out_dir default_root_dir output out",
    "logs_root_dir": "log_dir logdir logging_dir",
    "ckpt_save_every_step": "save_period save_freq save_steps",
    "ckpt_keep_num": "save_total_limit checkpoint_hist",
    "print_loss_every": "log_interval log_every_n_steps logging_steps print_freq",
    "tracker": "log_wandb wandb report_to",
    "top_k": "topk k",
    "file_format": "export_format include",
    "config": "cfg config_file yaml c",
}
# Our commands: other tools' names of them.
_COMMANDS = {
    "infer": "predict inference detect classify test_image segment pose track",
    "eval": "val valid validate validation evaluate test",
    "train": "fit finetune fine_tune fine_tuning training resume",
    "bench": "benchmark profile speed",
    "weights": "convert info inspect",
    "models": "list list_models zoo",
    "show": "view visualize visualise explain plot",
    "quickstart": "demo tutorial start",
}
# Our values of keys that take one of a few words: other tools' names of them.
_VALUES = {
    "top1": "acc acc1 accuracy top_1 top1_acc val_acc val_accuracy eval_top1",
    "loss": "val_loss eval_loss cross_entropy",
    "macro_f1": "f1 f1_score f1_macro",
    "balanced_accuracy": "balanced bacc mean_class_accuracy macro_recall",
    "weights": "weighted class_weights class_weight",
    "sampling": "sampler oversampling weighted_sampler",
    "skip": "ignore warn",
    "error": "raise fail strict",
    "GPU": "cuda rocm nvidia",
    "Ascend": "npu",
    "ImageNet": "folder imagefolder image_folder custom",
}

# By the words of others.
OTHER_WORDS = {word: tuple(ours.split()) for ours, words in _WORDS.items() for word in words.split()}
OTHER_COMMANDS = {word: ours for ours, words in _COMMANDS.items() for word in words.split()}
OTHER_VALUES = {word: ours for ours, words in _VALUES.items() for word in words.split()}


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
