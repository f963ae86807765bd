"""Manifests, the dataset that turns clips into training samples, and the small synthetic world."""
