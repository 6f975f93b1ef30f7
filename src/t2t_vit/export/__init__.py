"""Model -> files, each verified in its own runtime before it is announced."""
