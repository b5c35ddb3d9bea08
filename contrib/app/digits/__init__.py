"""Federated training on scikit-learn's handwritten digits."""
