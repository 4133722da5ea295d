"""Loss functions, the spec sections of distillation losses, and objectives as weighted sums of loss terms."""
