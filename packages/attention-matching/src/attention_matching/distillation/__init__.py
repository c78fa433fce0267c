"""The distillation: its configuration, its step, its loop and its timing."""
