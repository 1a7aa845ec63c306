"""How a `QuantizedNetwork` is written to, and read from, the network files that Lava runs.

netx is lava-dl's HDF5 format (``lava/lib/dl/netx/hdf5.py``, 0.6.0): ``layer/0``, ``layer/1``, ... in the order in which
spikes pass them, laid out as slayer's own export lays them out (``slayer/block/base.py``). What Lava does not know lies beside
what it does, under names that it never asks for:

========================================  ==================================================================
attribute ``input_shape`` of the input    its shape, where Lava's is another
attribute ``name`` of a layer
attribute ``weight_bits``                 width of a stored weight; ``weight_rec_bits`` of a recurrent one
dataset ``scale``                         see `QuantizedLayer`
datasets ``starts`` and ``sources``       which of the weights are synapses, of a `QuantizedSparse`
========================================  ==================================================================

A chain is such a file and no more: convolutions of images, dense layers (after a ``flatten``, with one delay), dense layers
that hear themselves (``dense_rec``). Plain ``netx.hdf5.Network`` loads it.

**Other networks** stand in the same file format with layers of a type of their own, ``population``, which netx has not
(`plain_kinds` says which networks those are): branches, several connections, delayed convolutions, recurrence through
anything but one dense matrix, and sparse or recurrent matrices that netx would read otherwise than they are meant::

    layer/0                      input, as in netx
    layer/1 ...                  type "population"; shape, bias, scale, neuron, name as above; numbers of neurons in a row
        connection/0 ...         type "dense", "sparse" or "conv"; attributes source (name of a layer, or "input"),
                                 delay_steps, weight_bits; weight
                                 sparse: inFeatures, starts, sources (compressed rows)
                                 conv:   shapeIn (C, H, W), stride, padding, dilation, groups
"""

from neurodeploy.netx.chains import plain_kinds
from neurodeploy.netx.reading import read_netx
from neurodeploy.netx.writing import write_netx

__all__ = ["plain_kinds", "read_netx", "write_netx"]
