"""Adapters to other libraries; each module imports the library it adapts."""
