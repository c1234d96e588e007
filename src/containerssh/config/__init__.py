"""The configuration: a model for each section, how a file is read, and how a config server's answer is merged."""
