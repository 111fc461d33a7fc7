"""``alexnet demo``: a page on which a trained network is shown pictures, on this machine or as a Hugging Face Space.

from alexnet import load_model
from alexnet.data import datasets
from alexnet.use.demo import Network, serve
page = serve(Network(load_model("runs/x"), datasets.load("digits")))
page.url, page.close()
"""

from alexnet.use.demo.network import Network
from alexnet.use.demo.server import serve

__all__ = ["Network", "serve"]
