"""Analyses of models and texts; heavy dependencies are imported only where they are used."""
