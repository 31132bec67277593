"""Looking at a folder of runs while they go on: a page on this machine alone."""
