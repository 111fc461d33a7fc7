"""``alexnet demo``: a page on this machine on which a trained network is shown pictures.

Gradio is imported by ``serve`` alone; it is an extra.
"""
