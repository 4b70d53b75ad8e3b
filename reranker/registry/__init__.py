"""The model registry: which bundles are kept, which one is current, and the gate that a new one must pass."""
