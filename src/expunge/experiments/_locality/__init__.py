"""Steps of the controlled experiment on locality, one file each."""
