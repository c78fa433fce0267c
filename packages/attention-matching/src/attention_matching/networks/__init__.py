"""Networks with features at every stage: ConvNet and the architectures of the evaluation."""
