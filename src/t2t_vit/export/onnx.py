"""A network as an ONNX file."""

import warnings

import torch
from torch import nn

import t2t_vit
from t2t_vit.errors import UserError
from t2t_vit.inference.onnx_metadata import INPUT, OUTPUT, OnnxMetadata

OPSET = 18
# torch.export takes a size of 0 or 1 in the example for a constant.
_EXAMPLE_BATCH = 2


def onnx_bytes(model: nn.Module, metadata: OnnxMetadata) -> bytes:
    """The content of one self-contained file: float32 `images` (batch, C, H, W) -> `logits` (batch, num_classes).

    The batch is dynamic, the size fixed. Preprocessing stays outside, described by the metadata.

    Args:
        model: in eval mode, in float32, on the CPU.
        metadata: written into the file's `metadata_props`; its preprocessing gives the shape of the images.

    Raises:
        UserError: the exporter's packages are not installed.
    """
    check_exporter()
    preprocessing = metadata.preprocessing
    example = torch.zeros(_EXAMPLE_BATCH, preprocessing.in_chans, *preprocessing.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own internals
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.model.metadata_props.update(metadata.to_strings())
    program.model.producer_name, program.model.producer_version = "t2t_vit", t2t_vit.__version__
    content: bytes = program.model_proto.SerializeToString()
    return content


def check_exporter() -> None:
    """Refuse early where ONNX files cannot be made.

    Raises:
        UserError: the packages that torch's exporter needs are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'file_format ONNX needs the package {error.name}; install it with: pip install "t2t_vit[export]"'
        ) from error
