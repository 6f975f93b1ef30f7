"""Processes find the living, and not the dead ones' leftovers in torchrun's store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore

from t2t_vit.training.attempt import of_this_attempt

LONG = timedelta(minutes=10)  # on a busy machine; nobody waits for it


def test_each_attempt_has_a_store_of_its_own() -> None:
    store = HashStore()
    for attempt in ("one", "two", "three"):
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda rank: of_this_attempt(store, rank, 3, LONG), range(3)))
        assert all(isinstance(part, PrefixStore) for part in parts)
        assert not parts[1].check(["address"])
        parts[0].set("address", attempt)
        assert {part.get("address").decode() for part in parts} == {attempt}


def test_one_that_never_comes_is_an_error() -> None:
    store = HashStore()
    store.set("hello/1", "of a dead one")
    with pytest.raises(TimeoutError, match="of 2 processes, 1 did not come"):
        of_this_attempt(store, 0, 2, timedelta(seconds=0.2))
