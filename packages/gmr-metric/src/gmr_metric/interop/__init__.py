"""Mixtures from and for other libraries; each module imports the library it is for."""
