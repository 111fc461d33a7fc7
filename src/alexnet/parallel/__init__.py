"""Several processes: the two towers of 2012, one on each of two."""
