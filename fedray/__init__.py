"""fedray: federated learning with foundation-model distillation, on Ray."""
