"""Where LTX files are kept: a folder or an S3 bucket behind one small interface, in the layout of Litestream 0.5."""
