"""The forms of the office: one module for what they are about. What is typed goes to the Pi, and comes back through the log."""

from server.pages.forms import account, animals, batches, pens, users

__all__ = ["account", "animals", "batches", "pens", "users"]
