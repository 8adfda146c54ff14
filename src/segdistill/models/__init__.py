"""Networks: each returns logits and named features (`network.Output`); built by name with `create_network`."""
