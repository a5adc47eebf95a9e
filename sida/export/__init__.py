"""Use a finished generator elsewhere: samples, and a folder that needs nothing of this project."""
