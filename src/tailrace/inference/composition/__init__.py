"""Stages made of stages: ensembles, cascades, cold starts, splits, routes."""
