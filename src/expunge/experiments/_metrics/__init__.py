"""Parts of the experiment that judges metrics."""
