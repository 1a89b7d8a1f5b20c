"""The daemon: composes the libraries, and owns every task, socket, signal and setting."""

__version__ = "0.1.0"
