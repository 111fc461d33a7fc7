"""The four-layer networks for CIFAR-10 of 2012, trained as cuda-convnet trained them."""
