"""Machines that are reached by ssh: the connection, what runs at its other end, what travels."""
