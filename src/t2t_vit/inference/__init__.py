"""Images -> predictions: one predictor interface over the runtimes."""
