"""What a training step takes, side by side with plain Norse; answers first held against it.

uv run python -m benchmarks.training --out benchmarks/results/training.jsonl [--threads N]
"""
