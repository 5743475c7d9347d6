"""When a primary went back in time: what it lost and its replica still holds, found, kept in a file, and played back on request."""
