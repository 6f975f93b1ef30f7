"""Predictions of many files, in order, bad ones included."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from t2t_vit.data.decode import DecodeError
from t2t_vit.inference.predictor import BATCH_SIZE, Prediction, Predictor

_READERS = 2


def predict_files(
    predictor: Predictor, files: Sequence[str], *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[str, Prediction | str]]:
    """For each file, in order, its prediction, or the reason (a sentence) why there is none.

    The next batch is decoded while the network works on this one; no more than two batches are held.
    """
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[tuple[Sequence[str], list[Future[Tensor]]]] = deque()
        for batch in batches:
            ahead.append((batch, [pool.submit(predictor.prepare, file) for file in batch]))
            if len(ahead) > 1:
                yield from _answers(predictor, *ahead.popleft())
        while ahead:
            yield from _answers(predictor, *ahead.popleft())


def _answers(
    predictor: Predictor, files: Sequence[str], reads: Sequence[Future[Tensor]]
) -> Iterator[tuple[str, Prediction | str]]:
    images: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    for file, read in zip(files, reads, strict=True):
        try:
            images[file] = read.result()
        except DecodeError as error:
            reasons[file] = str(error)
        except MemoryError:
            reasons[file] = "it does not fit into memory"
    found = dict(zip(images, predictor.classify(list(images.values())), strict=True)) if images else {}
    for file in files:
        yield file, found[file] if file in found else reasons[file]
