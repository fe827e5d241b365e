"""Dictionaries over a layer, whose latents are units: sparse autoencoders and factorisations, from their files."""
