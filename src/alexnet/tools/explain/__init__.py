"""Look inside a trained network. ``alexnet explain`` writes these results to a page; notebooks can use them directly.

from alexnet import load_model
from alexnet.data.images import open_image
from alexnet.tools import explain

model = load_model("cifar10-small")
(found,) = explain.explain_images(model, [open_image("cat.jpg")])
found.top                                     # [(3, 0.91), (5, 0.04), …]: class index and probability
found.evidence                                # [2, 13, 13]: Grad-CAM of the two most probable classes
found.maps["conv3"]                           # [96, 13, 13], before the ReLU
explain.receptive_field(model, "conv3")       # 99 pixels every 16 pixels
known = explain.collect_outputs(model, dataset.train)
explain.nearest(explain.outputs_of(model, found.input[None]).fc7, known.fc7, 5)
"""

from alexnet.tools.explain.analysis import *  # noqa: F403
from alexnet.tools.explain.page import explain as explain
from alexnet.tools.explain.page import format_explanation as format_explanation
