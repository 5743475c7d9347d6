"""The office pages: every one is read from the replica in one snapshot, and says of when its rows are. One module for each thing shown."""

from server.pages import animal, batches, cattle, changes, dashboard, exports, forms, payloads, pens, replication, users
from server.pages.routes import pages

__all__ = ["animal", "batches", "cattle", "changes", "dashboard", "exports", "forms", "pages", "payloads", "pens", "replication", "users"]
