"""Reading, decoding and computing go on at the same time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Event

import pytest
import torch
from torch import Tensor

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.item import Item
from t2t_vit.inference.pipeline import answer_batches
from t2t_vit.inference.predictor import Predictor
from t2t_vit.inference.readers import Readers

PREPROCESSING = Preprocessing((8, 8), mean=(0.5,), std=(0.5,))
LONG = 300.0  # seconds that nobody waits unless things come one after the other


class WaitingReaders(Readers):
    """Image i is black with a first pixel of i; an event is set when it is decoded."""

    def __init__(self, count: int) -> None:
        super().__init__(PREPROCESSING)
        self.decoded = [Event() for _ in range(count)]

    def read(self, source: str | bytes) -> Future[Tensor]:
        return self._threads.submit(self._decode, int(source))

    def _decode(self, number: int) -> Tensor:
        time.sleep(0.002)
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        image[0, 0, 0] = number
        self.decoded[number].set()
        return image


class Slow(Predictor):
    """The class of an image is its first pixel; while it computes it waits for an image of a batch to come."""

    farther = 1  # batches

    def __init__(self, decoded: list[Event], batch: int) -> None:
        super().__init__(PREPROCESSING, None)
        self._decoded, self._batch = decoded, batch
        self.overlapped: list[bool] = []

    def logits(self, images: Tensor) -> Tensor:
        first = int(images[0, 0, 0, 0])
        awaited = first + self.farther * self._batch
        if awaited < len(self._decoded):
            self.overlapped.append(self._decoded[awaited].wait(LONG))
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), len(self._decoded)).float()


class Device(Slow):
    """Computes by itself: work is begun, and its answer taken later. Remembers in which order."""

    is_asynchronous = True
    farther = 2  # when that one is being decoded, the next one is there

    def __init__(self, decoded: list[Event], batch: int) -> None:
        super().__init__(decoded, batch)
        self.order: list[str] = []

    def begin(self, images: Tensor) -> Callable[[], Tensor]:
        number = int(images[0, 0, 0, 0]) // self._batch
        self.order.append(f"begin {number}")
        logits = self.logits(images)

        def wait() -> Tensor:
            self.order.append(f"end {number}")
            return logits

        return wait


def answers(predictor: Predictor, items: Iterator[Item], readers: Readers, batch: int) -> list[int]:
    found = answer_batches(predictor, items, readers, batch_size=batch)
    return [answered.result.predictions[0].index for answers in found for answered in answers]


def test_the_next_batch_is_decoded_while_this_one_is_computed() -> None:
    readers = WaitingReaders(20)
    predictor = Slow(readers.decoded, 4)
    assert answers(predictor, (Item(str(i)) for i in range(20)), readers, 4) == list(range(20))
    assert predictor.overlapped == [True] * 4
    readers.close()


def test_a_device_gets_its_next_batch_before_the_answers_are_taken() -> None:
    readers = WaitingReaders(20)
    predictor = Device(readers.decoded, 4)
    assert answers(predictor, (Item(str(i)) for i in range(20)), readers, 4) == list(range(20))
    assert predictor.order.index("begin 1") < predictor.order.index("end 0")
    assert [word for word in predictor.order if word[0] == "e"] == [f"end {i}" for i in range(5)]
    readers.close()


def test_nobody_who_lists_one_at_a_time_waits_for_the_next() -> None:
    """The second path comes only when the first one is answered."""
    readers = WaitingReaders(2)
    predictor = Device(readers.decoded, 1)
    predictor.logits = lambda images: torch.eye(2)[images[:, 0, 0, 0].long()]  # type: ignore[method-assign]
    answered = Event()

    def items() -> Iterator[Item]:
        yield Item("0")
        assert answered.wait(LONG)
        yield Item("1")

    for batch in answer_batches(predictor, items(), readers, batch_size=1):
        assert batch[0].result.predictions
        answered.set()
    assert predictor.order == ["begin 0", "end 0", "begin 1", "end 1"]
    readers.close()


@pytest.mark.gpu
def test_cuda_gives_the_cpus_answers_ahead() -> None:
    from t2t_vit.inference.torch_predictor import TorchPredictor, Workload, plan_for
    from t2t_vit.model import create_model
    from t2t_vit.precision import choose_precision

    torch.manual_seed(0)
    model = create_model("t2t_vit_quickstart", num_classes=10, image_size=28).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (37, 3, 28, 28), dtype=torch.uint8)
    preprocessing = Preprocessing((28, 28))
    expected = TorchPredictor(model, preprocessing, None).logits(images)
    for level, bound in (("O0", 1e-5), ("auto", 5e-2)):
        there = create_model("t2t_vit_quickstart", num_classes=10, image_size=28)
        there.load_state_dict(state)
        precision = choose_precision(level, torch.device("cuda"), training=False)
        predictor = TorchPredictor(there, preprocessing, None, precision, plan_for("cuda", Workload(37, 8)))
        assert precision.name in ("O0", "bf16 weights")
        for _ in range(3):  # eager first, then recorded, then replayed; the last batch is filled up
            begun = [predictor.begin(batch) for batch in images.split(8)]
            logits = torch.cat([wait() for wait in begun])
            assert float((logits - expected).abs().max()) <= bound * float(expected.abs().max())
        one = torch.cat([predictor.logits(images[i : i + 1]) for i in range(6)])
        assert float((one - expected[:6]).abs().max()) <= bound * float(expected.abs().max())


@pytest.mark.gpu
def test_a_compiled_network_never_compiles_again() -> None:
    from torch._dynamo.utils import counters

    from t2t_vit.inference.torch_predictor import Plan, TorchPredictor
    from t2t_vit.model import create_model
    from t2t_vit.precision import choose_precision

    model = create_model("t2t_vit_quickstart", num_classes=10, image_size=28)
    precision = choose_precision("auto", torch.device("cuda"), training=False)
    predictor = TorchPredictor(model, Preprocessing((28, 28)), None, precision, Plan(True, True, fill=8))
    counters.clear()
    images = torch.randint(0, 256, (37, 3, 28, 28), dtype=torch.uint8)
    for batch in images.split(8) * 2:
        predictor.logits(batch)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
