"""`t2t-vit show`: a figure of what the network sees in an image."""

from pathlib import Path
from typing import cast

from PIL import Image

from t2t_vit.cli.predictors import torch_predictor
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.decode import DecodeError, decode
from t2t_vit.errors import UserError
from t2t_vit.inference.look import Look, as_colours, look
from t2t_vit.inference.writers import check_output
from t2t_vit.notes import print_line, tell
from t2t_vit.report.pictures import draw_view, new_figure
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.schema import Config


def run(options: Options) -> int:
    """Draw IMAGE's view; prints the path of the figure."""
    image = options.data
    output = options.extras.get("output", f"{Path(image).stem}_view.png")
    check_output(output)
    new_figure(1, 1)  # report a missing package before the work
    if not Path(image).is_file():
        raise UserError(f"DATA '{image}': is not a file; show takes one image")
    predictor = torch_predictor(options, options.required_checkpoint())
    try:
        preprocessing = predictor.preprocessing
        budget = PixelBudget(cast(int, options.said("max_pixels", Config.max_pixels)))
        seen = look(predictor, decode(image, preprocessing.mode, preprocessing.reduction, budget))
    except DecodeError as error:
        raise UserError(f"{image}: {error}") from error
    stages = [as_colours(stage).permute(1, 2, 0).numpy() for stage in seen.stages]
    draw_view(as_image(seen), stages, seen.rollout.numpy(), output, title=answer(seen))
    tell(answer(seen))
    print_line(str(output))
    return 0


def as_image(seen: Look) -> Image.Image:
    """The pixels that the network saw."""
    pixels = seen.image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def answer(seen: Look) -> str:
    """One line: the class and its probability."""
    prediction = seen.prediction
    name = f"class {prediction.index}" + (f", {prediction.name.replace('_', ' ')}" if prediction.name else "")
    return f"{name} ({prediction.probability:.0%})"
