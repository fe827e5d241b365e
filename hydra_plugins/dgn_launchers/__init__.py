"""Hydra launchers of dgn, found by Hydra in the namespace package ``hydra_plugins``."""
