"""Loss functions, distillation losses and the objective that sums them."""
