"""Training: load a model, attach the objective, step, save, resume."""
