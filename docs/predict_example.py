"""Squares of deviations from a mean, which needs everything first."""

import dask.array as da

x = da.random.random((80, 512, 512), chunks=(1, 512, 512))
squares = ((x - x.mean(axis=0)) ** 2).mean()
