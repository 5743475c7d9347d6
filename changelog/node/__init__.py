"""What both roles are as a process: settings, logging, the server and its stop, error documents, who may call."""
