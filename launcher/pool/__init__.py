"""Runs that wait: started as there is room for them on the machines of their configuration."""
