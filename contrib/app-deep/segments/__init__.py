"""Federated training on seven-segment digits, with PyTorch or TensorFlow."""
