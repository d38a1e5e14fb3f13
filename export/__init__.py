"""Exporters of trained SimVTP models."""
