"""The verbs of the command line, one file each; files that start with an underscore hold what several share."""
