"""A configuration and a network -> what moves its weights: optimizer, loss scale, average, and the step itself."""

from collections.abc import Callable

from t2t_vit.cli import assembly
from t2t_vit.data.images import ImageSet
from t2t_vit.model import T2TViT
from t2t_vit.precision import Precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.checkpoint import Trained
from t2t_vit.training.compilation import compile_for_training
from t2t_vit.training.distributed import Processes, share_gradients
from t2t_vit.training.ema import Ema
from t2t_vit.training.masters import WorkingCopy
from t2t_vit.training.randomness import SampleNumbers
from t2t_vit.training.scaler import LossScaler
from t2t_vit.training.step import TrainStep


def trained_of(config: Config, model: T2TViT, precision: Precision) -> Trained:
    """The network, which is on its device, with all that a step changes."""
    return Trained(
        model,
        assembly.optimizer_of(config, model),
        LossScaler(precision.device, config.loss_scale, dynamic=config.is_dynamic_loss_scale)
        if precision.scales_loss
        else LossScaler(precision.device),
        Ema(model, config.ema_decay) if config.with_ema else None,
    )


def step_of(
    config: Config,
    trained: Trained,
    images: ImageSet,
    precision: Precision,
    processes: Processes,
    note: Callable[[str], None],
) -> TrainStep:
    """The training step; `images` are those that classes are counted in, where the loss weights them."""
    copy = WorkingCopy(trained.model, precision.working_copy(trained.model)) if precision.has_masters else None
    network = trained.model if copy is None else copy.module
    assert isinstance(network, T2TViT)
    model = network if config.pynative_mode else compile_for_training(network, precision.device, note)
    return TrainStep(
        share_gradients(model, processes, precision.device),
        trained.optimizer,
        scaler=trained.scaler,
        ema=trained.ema,
        accumulation=config.accumulation_step,
        clip_norm=config.clip_grad_norm if config.use_clip_grad_norm else None,
        autocast=precision.autocast,
        mean=processes.mean,
        loss=assembly.loss_of(config, images, precision.device),
        copy=copy,
        numbers=SampleNumbers(network.sample_seeds.set, config.seed, processes.rank),
    )
