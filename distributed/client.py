"""Partial module: the part of ``distributed.client`` that differs from the base.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations


class Client:
    def rootish(self) -> Any:
        """Ask the scheduler which task groups are root-ish, and why tasks are queued.

        Returns
        -------
        RootishStatus
            It is printed as a table, has one for notebooks, and ``to_dict``. Groups
            are in it as long as the scheduler knows them. What queued tasks wait for is
            in ``waits`` of each group, and in the table if there are any.

        Raises
        ------
        RuntimeError
            If the scheduler keeps no verdicts, as one of a release does.

        See Also
        --------
        Client.explain_rootish
        """
        from distributed.rootish.monitor import ask_scheduler

        return self.sync(ask_scheduler, self.scheduler)

    def explain_rootish(
        self,
        *collections: Any,
        sizes: Mapping[str, str | float] | None = None,
        predict: bool | None = None,
        persist: bool = False,
        timeout: str | float | None = None,
    ) -> Any:
        """Tell what a computation will take on this cluster, and what is root-ish.

        The graph is not run. To know it, dask may have to compute something on the
        cluster, as the partitions of a data frame that is sorted; what that was is
        said. The settings are those of this process.

        Parameters
        ----------
        *collections
            Collections of dask that are to be computed at once.
        sizes
            Name of a group or its prefix -> size of the output of each of its tasks,
            such as ``{"read": "2 MiB"}``, where dask does not know it. What is not
            given is taken from a run that the scheduler still knows, if there is one.
        predict
            Whether to predict what the computation takes. By default that is done for
            graphs of up to 100,000 tasks.
        persist
            Whether results are to stay on the workers, as with ``persist``.
        timeout
            Time that it may take to know the graph and to predict, such as
            ``"5 minutes"``. By default that is half a minute, without a bound on what
            ``predict=True`` takes.

        Returns
        -------
        Explanation
            It is printed as a table, has one for notebooks, ``plot``, and ``to_dict``.

        Raises
        ------
        TypeError
            If one is no collection.
        ValueError
            If there are no collections, or the cluster has no workers.
        TimeoutError
            If the graph is not known in time, or what was asked for not predicted.

        See Also
        --------
        distributed.rootish.explain
        Client.rootish
        """
        from distributed.rootish.explanation import (
            Options,
            explain_on_cluster,
            out_of_the_way,
        )

        options = Options(sizes, predict, persist, timeout)
        if self.asynchronous:
            return explain_on_cluster(collections, self, options)
        with out_of_the_way():
            return self.sync(explain_on_cluster, collections, self, options)
