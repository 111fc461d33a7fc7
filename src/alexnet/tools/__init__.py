"""Tools that read a run folder or a model through the public API; nothing in the core imports them."""
