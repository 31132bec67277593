"""Sweeps: many unlearning runs with different settings, by any number of workers, and the best of them."""
