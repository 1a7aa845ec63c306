"""Time of a training step: the extracted network, plain and under a budget, beside the module with Norse's own cells."""
