"""Bakes projects from the template, and judges what was baked."""
