"""Files of weights: checkpoints, cards, the hub, and formats from and for elsewhere."""
