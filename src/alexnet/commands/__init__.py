"""What each command of ``alexnet`` does: from its arguments to an answer. Heavy imports are inside the functions."""
