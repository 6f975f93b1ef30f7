"""Every configuration key: its default, its meaning and what it may hold; one frozen dataclass a section.

The keys are flat, `config.epochs`, and stand in a YAML file and on the command line under the same names. Names,
meanings and defaults are those of the MindSpore model-zoo page of T2T-ViT, except for the folders, the data, the
device, the kind of GELU and the class count. What keys mean beside each other is in `rules`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar, cast

from t2t_vit.errors import UserError
from t2t_vit.settings.names import nearest_key
from t2t_vit.settings.values import Allowed, Key, Location, OneOf, Range, Value, Written
from t2t_vit.variants import VARIANTS

T = TypeVar("T")

FRACTION = Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)
SHARE = Range(0, 1, open_low=True)
POSITIVE = Range(0, open_low=True)
COUNT = Range(1)
AUTO_BATCH = 0  # stands for `auto` in a configuration until it is resolved
BATCH = Range(1, named=(("auto", AUTO_BATCH),))
TEMPERATURE = Range(0.01, 100)  # beyond, float32 cannot tell the probabilities of two networks apart
_FORMER_DEFAULTS: Mapping[str, object] = {"max_pixels": 178_956_970}
OF_SEED = -1  # stands for `seed`, the value of the key of that name
SEED_OF_IMAGES = Range(0, 2**63 - 1, named=(("seed", OF_SEED),))
LOSS_SCALE = Range(0, 1e38, open_low=True)
OR_OFF = Range(0)
OR_UNLIMITED = Range(0, 1e6)
PIXELS = Range(0, 2**32)
SIDE = Range(8, 8192)
ALL_OR_COUNT = Range(1, also=(-1,))
PATH = Location()
RUN = Location("a checkpoint, or auto")
CROP = r"[1-9]\d{0,3}(x[1-9]\d{0,3})?:(0?\.\d{1,9}|1(\.0{1,9})?)"
CROP_SCHEDULE = Written(
    rf"|{CROP}(, ?{CROP}){{0,5}}",
    "up to six sizes in pixels (HEIGHTxWIDTH where the sides differ), each with the share of the epochs at which it "
    "ends, such as 96:0.6,128:1.0; or nothing",
)
RESAMPLING = OneOf(("random", "bilinear", "bicubic", "nearest"))
FILE_FORMATS = ("MINDIR", "ONNX", "AIR", "PT2", "AOTI", "OPENVINO", "EXECUTORCH", "TENSORRT", "SAFETENSORS", "all")
BEST_BY = OneOf(("top1", "loss", "balanced_accuracy", "macro_f1"))
RUNTIMES = ("openvino", "onnxruntime")
NUMERAL = r"\d+(\.\d+)?"
CACHE = Written(r"auto|off|\d+(\.\d+)?[KMGTkmgt][Ii]?[Bb]", "auto, off, or a size such as 4GiB")
AUTO_AUGMENT = Written(
    rf"|(original|originalr|v0|v0r|3a)(-mstd{NUMERAL})?"
    rf"|rand(-([mn]\d+|mmax\d+|inc\d|p{NUMERAL}|mstd{NUMERAL}|t(weights|3a|3aw)))*"
    rf"|augmix(-([mwd]\d+|b\d|a(?!0*(\.0*)?(-|$)){NUMERAL}|mstd{NUMERAL}))*",
    "a policy such as rand-m9-mstd0.5-inc1 (parts m n p mstd mmax inc t), augmix-m5-w4 (parts m w d a b mstd), "
    "original, originalr, v0, v0r or 3a, or nothing for off",
)


def key(default: T, meaning: str, allowed: Allowed | None = None) -> T:
    """A field that is a configuration key: its default, its meaning for `--help`, its allowed values."""
    return field(default=default, metadata={"meaning": meaning, "allowed": allowed})


@dataclass(frozen=True)
class Dataset:
    dataset: str = key(
        "ImageNet",
        "ImageNet: folders of images, one folder per class; FashionMNIST: the embedded subset, or the full set in "
        "data_url; CIFAR10, CIFAR100: the binary layout",
        OneOf(("ImageNet", "FashionMNIST", "CIFAR10", "CIFAR100")),
    )
    data_url: str = key("", "folder that holds the data", PATH)
    train_dir: str = key("train", "folder of the training images, within data_url", PATH)
    val_dir: str = key("validation_preprocess", "folder of the validation images, within data_url", PATH)
    train_num_samples: int = key(-1, "training images: -1 all, else a class-balanced subset", ALL_OR_COUNT)
    val_num_samples: int = key(-1, "validation images: -1 all, else a class-balanced subset", ALL_OR_COUNT)
    val_split: float = key(0.0, "share of each class held out for validation if val_dir does not exist", BELOW_ONE)
    split_seed: int = key(
        0, "seed that decides which images val_split holds out; independent of seed", Range(0, 2**63 - 1)
    )
    val_seed: int = key(
        OF_SEED, "seed that draws the validation images of val_num_samples; seed: that of the run", SEED_OF_IMAGES
    )
    bad_images: str = key(
        "skip",
        "images that cannot be read: skip replaces them in training and leaves them out of evaluation; error stops",
        OneOf(("skip", "error")),
    )
    max_pixels: int = key(
        0,
        "largest image that is decoded, width times height, whatever memory that takes; a larger image counts as "
        "unreadable; 0: one that takes at most 268 MB and twice its file's size",
        PIXELS,
    )
    class_balance: str = key(
        "none",
        "help for rare classes: weights raises their loss, sampling draws each class equally often; none: no help",
        OneOf(("none", "weights", "sampling")),
    )


@dataclass(frozen=True)
class Augmentations:
    auto_augment: str = key("rand-m9-mstd0.5-inc1", "augmentation policy in timm's notation; empty: off", AUTO_AUGMENT)
    aa_interpolation: str = key("bilinear", "interpolation within auto_augment", RESAMPLING)
    repeated_augment: int = key(
        1,
        "views of each image in one update of all processes, each with its own augmentation; an epoch keeps its "
        "number of steps, so it sees that many times fewer images",
        Range(1, 100),
    )
    re_mode: str = key("pixel", "how erased boxes are filled", OneOf(("const", "rand", "pixel")))
    re_prob: float = key(0.25, "probability of random erasing", FRACTION)
    re_count: int = key(1, "maximum number of erased boxes per image", Range(1, 1000))
    cutmix: float = key(1.0, "alpha of CutMix; 0: off", OR_OFF)
    mix_token: float = key(0.0, "alpha of MixToken, which mixes tokens with distill dense; 0: off", OR_OFF)
    mixup: float = key(0.8, "alpha of Mixup; 0: off", OR_OFF)
    mixup_prob: float = key(1.0, "probability that a batch is mixed", FRACTION)
    mixup_mode: str = key(
        "batch",
        "images that share one mixing ratio: a batch, a pair or a single image (elem)",
        OneOf(("batch", "pair", "elem")),
    )
    mixup_off_epoch: float = key(0.0, "epoch at which mixing ends; 0: never", OR_OFF)
    switch_prob: float = key(0.5, "probability of CutMix rather than Mixup when both are on", FRACTION)
    label_smoothing: float = key(0.1, "share of the target spread over all classes", BELOW_ONE)
    min_crop: float = key(0.08, "smallest area of a random crop, as a share of the image", SHARE)
    crop_pct: float = key(0.9, "evaluation resizes to floor(size / crop_pct) and crops the centre", SHARE)
    train_interpolation: str = key("random", "interpolation of the random crop", RESAMPLING)
    crop_schedule: str = key(
        "",
        "sizes of training images, small ones first, as 96:0.6,128:1.0: 96 pixels in the first 0.6 of the epochs, then "
        "128; evaluations keep image_size; empty: image_size",
        CROP_SCHEDULE,
    )
    hflip: float = key(0.5, "probability of a horizontal flip", FRACTION)
    color_jitter: float = key(0.4, "strength of brightness, contrast and saturation jitter; 0: off", OR_OFF)
    mean: tuple[float, ...] = key((0.485, 0.456, 0.406), "mean of each channel in 0..1, or one for all", FRACTION)
    std: tuple[float, ...] = key((0.229, 0.224, 0.225), "standard deviation of each channel, or one for all", POSITIVE)


@dataclass(frozen=True)
class Optimizer:
    optimizer: str = key(
        "adamw",
        "adamw; momentum: SGD with momentum; sgd: with Nesterov's; or any name that timm knows",
        Written(r"[a-z][a-z0-9_]*", "adamw, momentum, sgd or a name that timm knows"),
    )
    beta: tuple[float, float] = key((0.9, 0.999), "decay rates of Adam's two moments", BELOW_ONE)
    eps: float = key(1e-8, "added to Adam's denominator", POSITIVE)
    base_lr: float = key(0.001, "peak learning rate, not scaled by the batch size", POSITIVE)
    min_lr: float = key(1e-5, "lowest learning rate after warm-up", OR_OFF)
    lr_scheduler: str = key(
        "cosine_lr",
        "how the learning rate falls after warm-up",
        OneOf(("cosine_lr", "multistep_lr", "exp_lr", "constant_lr", "wsd_lr")),
    )
    lr_adjust: int = key(30, "epochs between the steps of multistep_lr", COUNT)
    lr_gamma: float = key(0.97, "factor of multistep_lr at each step, of exp_lr at each epoch", SHARE)
    lr_decay_share: float = key(0.2, "share of epochs, at their end, in which wsd_lr falls to min_lr", SHARE)
    lr_decay_shape: str = key(
        "sqrt", "how wsd_lr falls: sqrt, by 1 - sqrt(t), quickly at first; or linear", OneOf(("sqrt", "linear"))
    )
    momentum: float = key(0.9, "momentum of momentum and sgd", BELOW_ONE)
    weight_decay: float = key(0.05, "weight decay; biases, norms and cls_token are excluded", OR_OFF)
    layer_decay: float = key(1.0, "factor of the learning rate from each layer to the one below", SHARE)


@dataclass(frozen=True)
class Training:
    epochs: int = key(300, "epochs of the schedule, including warm-up", COUNT)
    batch_size: int = key(
        100,
        "images per step and device; auto: as many as fit into memory, on a CPU at most the recipe's number; "
        "accumulation_step is adjusted, unless you give it, so that an update sees as many images as before",
        BATCH,
    )
    accumulation_step: int = key(1, "batches accumulated for one optimizer step", COUNT)
    is_dynamic_loss_scale: bool = key(True, "adapt the fp16 loss scale during training")
    loss_scale: float = key(1024.0, "fp16 loss scale: fixed, or the initial one if dynamic", LOSS_SCALE)
    num_parallel_workers: int = key(8, "worker processes that read images; 0: the main process reads them", OR_OFF)
    cache: str = key("auto", "memory for keeping decoded images; auto: a quarter of the free memory", CACHE)
    start_epoch: int = key(0, "epoch of the schedule at which training starts", OR_OFF)
    warmup_length: float = key(2.0, "epochs of linear warm-up", OR_OFF)
    warmup_lr: float = key(7e-6, "learning rate at the beginning of warm-up", OR_OFF)
    use_clip_grad_norm: bool = key(True, "clip the gradient norm")
    clip_grad_norm: float = key(1.0, "maximum gradient norm", POSITIVE)
    loss: str = key(
        "ce",
        "what is minimised: ce, cross-entropy; bce, binary cross-entropy of each class; evaluations report ce",
        OneOf(("ce", "bce")),
    )
    bce_target_thresh: float = key(
        0.0,
        "for bce: a class of a mixed image counts as 1 above this share, else as 0; 0: off, shares stay as they are",
        BELOW_ONE,
    )
    exclude_epoch_state: bool = key(True, "True: take only the weights of pretrained; False: continue its run")
    seed: int = key(0, "random seed", Range(0, 2**63 - 1))
    with_ema: bool = key(False, "keep and evaluate an exponential moving average (EMA) of the weights")
    ema_decay: float = key(0.9999, "decay of the EMA per step", BELOW_ONE)
    model_average: str = key(
        "none",
        "average of the weights at the ends of epochs, used in place of the EMA: last_k, over the last average_epochs "
        "epochs; swa, over all epochs in the last average_share of the run",
        OneOf(("none", "last_k", "swa")),
    )
    average_epochs: int = key(
        5, "number of epochs that last_k averages; a checkpoint contains the weights of each", Range(2, 100)
    )
    average_share: float = key(0.25, "share of the run's epochs, at their end, that swa averages", SHARE)
    pynative_mode: bool = key(False, "True: run the network eagerly; False: compile it")
    dataset_sink_mode: bool = key(True, "copy batches to the device before they are needed")
    patience: int = key(0, "stop after this many evaluations in a row without improvement by best_by; 0: off", OR_OFF)
    max_hours: float = key(0.0, "stop after this many hours, counted over all continuations; 0: no limit", OR_OFF)
    best_by: str = key("top1", "metric that ranks checkpoints and chooses between raw and averaged weights", BEST_BY)
    resume: str = key("", "run to continue: a checkpoint file, or auto for the newest one in ckpt_root_dir", RUN)
    teacher: str = key(
        "",
        "network from whose answers the student learns, too: a checkpoint, a folder with model.safetensors, the name "
        "of released weights, an exported file, or timm:NAME=FILE",
        PATH,
    )
    distill: str = key(
        "none",
        "what is learned from the teacher: soft, its probabilities; hard, its first choice; dense, its probabilities "
        "for the place of each token; none, nothing",
        OneOf(("none", "soft", "hard", "dense")),
    )
    distill_weight: float = key(0.5, "share of the teacher's part in the loss; the targets have the rest", SHARE)
    distill_temperature: float = key(
        1.0,
        "divides the logits of teacher and student in distill soft; a larger value makes the probabilities more even",
        TEMPERATURE,
    )
    max_steps: int = key(0, "stop after this many optimizer steps; 0: no limit", OR_OFF)
    eval_every_epochs: int = key(1, "epochs between evaluations; 0: only at the end", OR_OFF)
    cooldown_epochs: int = key(0, "epochs at min_lr after the schedule", OR_OFF)
    skipped_steps_limit: int = key(20, "stop after this many updates in a row without a finite gradient", COUNT)


@dataclass(frozen=True)
class Model:
    arch: str = key("t2t_vit_19", "network", OneOf(tuple(VARIANTS)))
    amp_level: str = key(
        "O0",
        "precision: O0 fp32; O1 fp16 autocast with loss scaling; O2 fp16 weights; O3 all fp16, not for training; "
        "bf16 autocast; auto: the fastest one that is safe here",
        OneOf(("O0", "O1", "O2", "O3", "bf16", "auto")),
    )
    file_format: str = key("MINDIR", "format to export to, or all", OneOf(FILE_FORMATS))
    pretrained: str = key("", "checkpoint to start from, evaluate, predict with or export", PATH)
    image_size: int | tuple[int, int] = key(
        224, "input size of the network in pixels: one side, or height and width", SIDE
    )
    num_classes: int = key(0, "classes; 0: as many as the data or the checkpoint has", OR_OFF)
    drop: float = key(0.0, "dropout after embeddings, attention and MLPs", BELOW_ONE)
    drop_block: float = key(0.0, "DropBlock on the two token grids between soft splits", BELOW_ONE)
    drop_path: float = key(0.1, "stochastic depth of the last block; it rises linearly from the first", BELOW_ONE)
    disable_approximate_gelu: bool = key(True, "True: GELU by erf; False: by tanh")
    in_chans: int = key(3, "channels of an image: 1 grey, 3 RGB, 4 RGBA", OneOf((1, 3, 4)))
    performer_drop: float = key(0.1, "dropout within the performers of the tokens-to-token module", BELOW_ONE)
    freeze: str = key(
        "",
        "frozen part: tokens (the T2T module), N (also the first N blocks), backbone (all but the head)",
        Written(r"|tokens|backbone|[1-9]\d*", "tokens, backbone, a number of blocks, or nothing"),
    )


@dataclass(frozen=True)
class Hardware:
    device_id: int = key(0, "index of the accelerator", OR_OFF)
    device_num: int = key(
        1, "number of processes, one accelerator each; a launcher such as torchrun overrides it", COUNT
    )
    device_target: str = key(
        "auto",
        "auto: an accelerator where there is one, else the CPU; GPU: any accelerator (NVIDIA's, AMD's by ROCm); "
        "MPS: Apple's; XPU: Intel's",
        OneOf(("auto", "GPU", "CPU", "MPS", "XPU", "Ascend")),
    )
    runtime: str = key(
        "auto",
        "runtime for predictions on a CPU; auto: the fastest, found by measuring",
        OneOf(("auto", "torch", *RUNTIMES)),
    )
    exported_seconds: float = key(
        300.0, "seconds that an exported file may take to load, or to answer a batch; 0: no limit", OR_UNLIMITED
    )
    exported_memory: float = key(8.0, "GB of memory that running an exported file may take; 0: no limit", OR_UNLIMITED)
    kernels: str = key(
        "auto",
        "reference: the plain network; cpu: a packed copy for predictions, on torch's operations; native: the same on "
        "our C++ kernels; triton: fused kernels on a GPU, also for training; auto: the fastest that runs here",
        OneOf(("auto", "reference", "cpu", "native", "triton")),
    )


@dataclass(frozen=True)
class CallbackSettings:
    summary_root_dir: str = key("runs/summary", "folder of TensorBoard events", PATH)
    ckpt_root_dir: str = key("runs/checkpoints", "folder of checkpoints", PATH)
    best_ckpt_root_dir: str = key("runs/best_checkpoints", "folder of the best checkpoints", PATH)
    logs_root_dir: str = key("runs/logs", "folder of logs, metrics and reports", PATH)
    ckpt_keep_num: int = key(10, "number of newest checkpoints to keep", COUNT)
    best_ckpt_num: int = key(5, "number of best checkpoints to keep", COUNT)
    ckpt_save_every_step: int = key(0, "steps between checkpoints; 0: off", OR_OFF)
    ckpt_save_every_seconds: int = key(1800, "seconds between checkpoints; 0: off", OR_OFF)
    print_loss_every: int = key(100, "steps between log lines", COUNT)
    summary_loss_collect_freq: int = key(20, "steps between losses written for TensorBoard", COUNT)
    model_postfix: str = key(
        "0",
        "suffix of the run's folder names after ARCH; 0: none",
        Written(r"[\w.+=-]*", "letters, digits and . _ + = -"),
    )
    collect_input_data: bool = key(False, "write samples of augmented images for TensorBoard")
    dump_graph: bool = key(False, "write the graph of the model for TensorBoard")
    tracker: str = key("none", "also log to wandb or mlflow", OneOf(("none", "wandb", "mlflow")))


@dataclass(frozen=True)
class Config(CallbackSettings, Hardware, Model, Training, Optimizer, Augmentations, Dataset):
    """All sections in one: `Config(arch="t2t_vit_14", epochs=10)`. Immutable; change it with `dataclasses.replace`."""

    @property
    def run_name(self) -> str:
        """Name of the run's folders: ARCH, followed by `model_postfix` when that is not 0."""
        return self.arch + ("" if self.model_postfix == "0" else self.model_postfix)

    def to_dict(self) -> dict[str, Any]:
        """Key -> value in primitives (lists for tuples), in the order of the sections."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; keys that are missing get their defaults.

        Raises:
            UserError: an unknown key, or a value of the wrong type or out of range.
        """
        fitted: dict[str, Any] = {name: checked(name, value) for name, value in values.items()}
        return cls(**fitted)


KEYS = {
    entry.name: Key(entry.name, entry.type, cast(Value, entry.default), **entry.metadata) for entry in fields(Config)
}
SECTIONS: dict[str, tuple[str, ...]] = {
    "Dataset": tuple(Dataset.__dataclass_fields__),
    "Augmentations": tuple(Augmentations.__dataclass_fields__),
    "Optimizer": tuple(Optimizer.__dataclass_fields__),
    "Network training config": tuple(Training.__dataclass_fields__),
    "Model arguments": tuple(Model.__dataclass_fields__),
    "Hardware setup": tuple(Hardware.__dataclass_fields__),
    "Callbacks setup": tuple(CallbackSettings.__dataclass_fields__),
}


def without_former_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of keys without those that an earlier version had as defaults: who has one chose nothing."""
    former = _FORMER_DEFAULTS
    return {name: value for name, value in values.items() if name not in former or value != former[name]}


def checked(name: str, value: object) -> Value:
    """The value when the key `name` exists and may hold it.

    Raises:
        UserError: it does not or may not.
    """
    if name not in KEYS:
        raise UserError(f"unknown key '{name}'; did you mean '{nearest_key(name, KEYS)}'?")
    try:
        return KEYS[name].check(value)
    except ValueError as error:
        raise UserError(f"{name} {error}") from None
