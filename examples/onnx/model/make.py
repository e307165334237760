#!/usr/bin/env python3
"""Writes the model beside this file: its graph, its trained weights, and what torch answers.

    examples/onnx/model/make.py examples/onnx/model

Made with torch 2.15.0, onnx 1.23.2, safetensors 0.8.0.
"""
import sys

import torch
from safetensors.torch import save_file

OUT = sys.argv[1]


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 64)
        self.norm = torch.nn.LayerNorm(64)
        self.second = torch.nn.Linear(64, 64)
        self.classes = torch.nn.Linear(64, 4)

    def forward(self, x):
        x = self.norm(torch.relu(self.first(x)))
        return self.classes(x + torch.relu(self.second(x)))


def main():
    torch.manual_seed(20261130)
    model = Classifier().eval()
    inputs = torch.randn(5, 16)
    # The graph, with weights that are of no use.
    torch.onnx.export(
        Classifier().eval(), (inputs,), f"{OUT}/classifier.onnx", input_names=["x"], output_names=["y"], opset_version=17, dynamo=False,
        dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}},
    )
    for _ in range(40):
        norm = model.norm.weight
        with torch.no_grad():
            norm.add_(0.01 * torch.randn_like(norm))
    torch.save({"state_dict": model.state_dict(), "epoch": 40}, f"{OUT}/classifier.pt")
    with torch.no_grad():
        save_file({"x": inputs, "y": model(inputs)}, f"{OUT}/answers.safetensors")


main()
