"""From settings to what is trained: the run, its images, its network, its step, and what follows it."""
