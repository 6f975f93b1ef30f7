"""Several runs side by side: what each came to, what it cost, and whether one is better than another."""
