"""Batches -> checkpoints: step, loop, schedule, optimizer, EMA, checkpoints, callbacks."""
