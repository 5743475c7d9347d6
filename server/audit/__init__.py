"""The replica's changelog as the pages read it: found by what is asked for, told cell by cell, and a row as it once stood."""
