"""Invertible layers: each has `to_latent` and `to_data` on flat batches, returning `(value, log_abs_det)`."""
