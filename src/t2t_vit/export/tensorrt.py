"""A network as a TensorRT engine, by way of ONNX; marked untested until it has run on a GPU."""

from pathlib import Path

from t2t_vit.errors import UserError
from t2t_vit.export.job import Job
from t2t_vit.export.onnx import onnx_model
from t2t_vit.inference.exported import INPUT
from t2t_vit.inference.runtime_predictors import tensorrt_head

# The batches that the engine is built for, where the batch is dynamic; TensorRT optimises for the middle one.
BATCHES = (1, 32, 256)
_WORKSPACE = 4 * 2**30


def write_tensorrt(job: Job, path: Path) -> None:
    """An engine for the GPU of this machine, behind the metadata; fp16 takes TensorRT's strongly typed ONNX graph.

    Raises:
        UserError: TensorRT does not take the network.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_model(job).SerializeToString()):
        raise UserError(f"TensorRT does not take the network: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    config.clear_flag(trt.BuilderFlag.TF32)
    if not job.metadata.batch:
        profile = builder.create_optimization_profile()
        sides = tuple(job.example().shape[1:])
        profile.set_shape(INPUT, *((batch, *sides) for batch in BATCHES))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError("TensorRT could not build an engine of the network on this GPU")
    path.write_bytes(tensorrt_head(job.metadata) + bytes(engine))
