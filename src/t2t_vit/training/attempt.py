"""How processes that torchrun has started again find each other, and not what the dead ones have left."""

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

PATIENCE = timedelta(minutes=10)
_PAUSE = 0.05  # seconds


def of_this_attempt(store: Store, rank: int, count: int, patience: timedelta = PATIENCE) -> Store:
    """A part of `store` that only the processes that are alive use; call it in all `count` of them.

    torchrun keeps its store when it starts processes again, addresses of dead ones included, and several of them on
    several machines count their attempts each for itself. So the first process answers whoever greets it, with a name
    that is new each time, until all the others have heard it.

    Raises:
        TimeoutError, or torch's DistStoreError: not all of them came within `patience`.
    """
    own = uuid4().hex
    store.set_timeout(patience)
    if rank > 0:
        store.set(f"hello/{rank}", own)
        attempt = store.get(f"answer/{own}").decode()
        store.set(f"heard/{attempt}/{rank}", "")
        return PrefixStore(attempt, store)
    missing = set(range(1, count))
    end = time.monotonic() + patience.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"heard/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # perhaps a dead one's, which nobody will read the answer to
                store.set(f"answer/{store.get(f'hello/{other}').decode()}", own)
        if time.monotonic() > end:
            raise TimeoutError(f"of {count} processes, {len(missing)} did not come: number {min(missing)} for one")
        time.sleep(_PAUSE if missing else 0)
    return PrefixStore(own, store)
