"""How fast the emulator is: beside Lava, beside the float model, on one chip's worth of neurons; equality first.

uv run python -m benchmarks.emulator --out benchmarks/results/emulator.jsonl [--mnist FILE.npz] [--threads N] [--only SECTION]

Sections: lava, norse, pruned, growth, mnist. Lava (Python 3.10) is needed for the first alone. A case runs only after spikes and
membranes of all its layers were found equal to Lava's on part of its data.
"""
