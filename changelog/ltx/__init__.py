"""A database in a bucket or folder, in Litestream's LTX format: written, read, restored, without Litestream."""
